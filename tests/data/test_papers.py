import json
from html import escape

import pytest

from tacit.data import open as open_data
from tacit.data._papers import facts_of, read_papers, when

ATOM = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:arxiv="http://arxiv.org/schemas/atom">
  <title>ArXiv Query</title>
  <entry>
    <id>http://arxiv.org/abs/2101.00001v2</id>
    <published>2021-01-04T00:00:00Z</published><updated>2021-02-01T00:00:00Z</updated>
    <title>Learning  to
      Learn</title>
    <summary>  A text &lt;b&gt;about&lt;/b&gt; learning. </summary>
    <author><name>A. Author</name></author>
    <link href="http://arxiv.org/abs/2101.00001v2" rel="alternate"/>
  </entry>
  <entry><id>http://arxiv.org/abs/cs/0101001</id><title>An old one</title><summary>Old words.</summary></entry>
</feed>"""

RSS = """<rss version="2.0"><channel><title>cs.LG</title>
  <item><title>A title</title><link>https://arxiv.org/abs/2401.00002</link>
    <description>arXiv:2401.00002v1 Announce Type: new Abstract: What it says.</description>
    <guid>oai:arXiv.org:2401.00002v1</guid><pubDate>Tue, 02 Jan 2024 00:00:00 -0500</pubDate></item>
</channel></rss>"""

LISTING = """<!DOCTYPE html><html><head><title>Machine Learning | arXiv</title></head><body><dl>
<dt><a name="item1">[1]</a> <a href="/abs/2401.00003" title="Abstract">arXiv:2401.00003</a></dt>
<dd><div class="meta"><div class="list-title mathjax"><span class="descriptor">Title:</span>
  First &amp; foremost</div><div class="list-authors"><a href="#">A</a></div>
  <p class="mathjax">Its abstract.</p></div></dd>
<dt><a href="/abs/2401.00004">arXiv:2401.00004</a></dt>
<dd><div class='list-title mathjax'><span class='descriptor'>Title:</span>Second</div></dd></dl></body></html>"""


def hub_page():
    paper = {"id": "2401.00005", "title": "On the hub", "summary": "So it is.", "upvotes": 40}
    papers = [{"title": "Daily", "numComments": 3, "paper": {**paper, "publishedAt": "2024-01-05T10:00:00.000Z"}}]
    props = escape(json.dumps({"dailyPapers": papers}), quote=True)
    return f'<html><head><title>Hugging Face</title></head><div data-target="DailyPapers" data-props="{props}"></div>'


def read(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_papers(tmp_path / name)


def test_atom(tmp_path):
    made = read(tmp_path, "query.atom", ATOM)
    assert made.uris == ["2101.00001", "cs/0101001"]
    assert made.texts == ["Learning to Learn. A text about learning.", "An old one. Old words."]
    assert made.facts[0] == {"date": "2021-01-04", "link": "https://arxiv.org/abs/2101.00001"}


def test_rss(tmp_path):
    made = read(tmp_path, "feed.xml", RSS)
    assert made.texts == ["A title. What it says."]
    assert made.facts == [{"date": "2024-01-02", "link": "https://arxiv.org/abs/2401.00002"}]


def test_listing_of_arxiv(tmp_path):
    made = read(tmp_path, "new.html", LISTING)
    assert made.uris == ["2401.00003", "2401.00004"]
    assert made.texts == ["First & foremost. Its abstract.", "Second"]
    assert made.facts[0]["link"] == "https://arxiv.org/abs/2401.00003"
    assert "1 of 2 entries" in made.remarks[0]


def test_page_of_the_hub(tmp_path):
    made = read(tmp_path, "papers.html", hub_page())
    assert made.uris == ["2401.00005"]
    assert made.texts == ["On the hub. So it is."]
    link = "https://huggingface.co/papers/2401.00005"
    assert made.facts == [{"date": "2024-01-05", "link": link, "discussed": 43}]


def test_links_of_the_hub_where_it_carries_no_json(tmp_path):
    made = read(tmp_path, "p.html", '<html>huggingface <h3><a href="/papers/2401.00006">Only a <i>title</i></a></h3>')
    assert (made.uris, made.texts) == (["2401.00006"], ["Only a title"])


@pytest.mark.parametrize("text", ["<html><body><p>just a page</p></body></html>", "no marks at all", "<a><b></a>", ""])
def test_other_files_are_none_of_these(tmp_path, text):
    if text:
        assert read(tmp_path, "x.html", text) is None


def test_a_document_type_that_unfolds_is_not_read(tmp_path):
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><feed><entry><title>&b;</title></entry></feed>'
    assert read(tmp_path, "x.xml", bomb) is None


def test_open_reads_them_as_texts(tmp_path):
    (tmp_path / "query.xml").write_text(ATOM)
    source = open_data(tmp_path / "query.xml")
    assert (source.modality, len(source)) == ("text", 2)
    assert source.facts[0]["date"] == "2021-01-04"


def test_columns_of_a_table_are_facts(tmp_path):
    rows = [
        {"id": "a", "title": "One", "abstract": "Some words about one thing.", "date": "Mar 2, 2023", "comments": 2},
        {"id": "b", "title": "Two", "abstract": "Some words about another.", "date": None, "url": "https://b.org"},
        {"id": "c", "title": "", "abstract": "", "date": "Apr 1, 2024"},
    ]
    path = tmp_path / "papers.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = open_data(path)
    assert source.uris == ["a", "b"]
    assert source.texts[0] == "One. Some words about one thing."
    assert source.facts == [{"date": "2023-03-02", "discussed": 2}, {"link": "https://b.org"}]


def test_facts():
    assert facts_of({"title": "x"}) == {}
    assert facts_of({"link": "javascript:alert(1)"}) == {}
    assert when(1_700_000_000) == "2023-11-14"
    assert when(None) is None

"""Nobody but the holder of the link gets anything, and nobody gets a file that is no item."""

import pytest

pytest.importorskip("fastapi", reason="the extra explore is not installed")
from starlette.testclient import TestClient

from tacit.errors import ArgumentError
from tacit.explore import Explored, _guard, create_app
from tacit.explore._files import original
from tacit.explore._serve import check_access, listen

HERE = "http://127.0.0.1:8765"


@pytest.fixture
def client(shapes_run, token):
    with TestClient(create_app(Explored(shapes_run), token=token), base_url=HERE) as made:
        yield made


@pytest.fixture
def allowed(token):
    return {"X-Tacit-Token": token}


def test_without_the_token_nothing_is_told(client, token):
    for path in ("/", "/api/run", "/api/points", "/api/file/0", "/nothing"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"X-Tacit-Token": "wrong"}).status_code == 401
    assert client.get(f"/?token={token}").status_code == 200
    assert client.get("/?token=wrong").status_code == 401
    # a link can carry a query, but no header: so the query opens the page alone, and no data
    assert client.get(f"/api/run?token={token}").status_code == 401
    assert client.get("/", headers={"X-Tacit-Token": token}).status_code == 401


def test_only_this_machine_s_names_are_answered(client, allowed):
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8765", "", "[::1", "192.168.0.7:8765"):
        assert client.get("/api/run", headers={**allowed, "Host": host}).status_code == 421, host
    for host in ("localhost:9999", "127.0.0.1", "[::1]:8765", "LOCALHOST:1"):  # a tunnel has another port
        assert client.get("/api/run", headers={**allowed, "Host": host}).status_code == 200, host


def test_listening_on_all_addresses_answers_to_addresses_but_not_to_strange_names(shapes_run, token, allowed):
    with TestClient(create_app(Explored(shapes_run), token=token, host="0.0.0.0"), base_url=HERE) as client:
        assert client.get("/api/run", headers={**allowed, "Host": "192.168.0.7:8765"}).status_code == 200
        assert client.get("/api/run", headers={**allowed, "Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8765"])
def test_requests_of_other_pages_are_refused(client, allowed, origin):
    assert client.get("/api/run", headers={**allowed, "Origin": origin}).status_code == 403
    answer = client.post("/api/undo", json={}, headers={**allowed, "Origin": origin})
    assert answer.status_code == 403


def test_its_own_page_and_clicked_links_are_answered(client, allowed, token):
    assert (
        client.get("/api/run", headers={**allowed, "Origin": HERE, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    )
    assert client.get("/api/run", headers={**allowed, "Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get("/api/run", headers={**allowed, "Sec-Fetch-Site": "same-site"}).status_code == 403
    clicked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get(f"/?token={token}", headers=clicked).status_code == 200
    assert client.get(f"/?token={token}", headers={**clicked, "Sec-Fetch-Mode": "no-cors"}).status_code == 403


def test_forms_of_other_pages_cannot_be_sent(client, allowed):
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain", ""):
        answer = client.post("/api/label", content=b"{}", headers={**allowed, "Content-Type": kind})
        assert answer.status_code == 415, kind
    assert client.request("DELETE", "/api/run", headers=allowed).status_code == 405
    assert client.request("OPTIONS", "/api/run", headers=allowed).status_code == 405


def test_every_answer_carries_the_policy(client, allowed, token):
    answers = [client.get("/"), client.get(f"/?token={token}"), client.get("/api/run", headers=allowed)]
    answers += [client.get("/static/app.js"), client.get("/api/nothing", headers=allowed)]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in answer.headers


def test_bodies_are_bounded_whether_or_not_they_say_their_length(client, allowed, monkeypatch):
    monkeypatch.setattr(_guard, "BODY_BYTES", 1000)
    monkeypatch.setattr(_guard, "UPLOAD_BYTES", 2000)
    json = {**allowed, "Content-Type": "application/json"}
    assert client.post("/api/items", content=b"[" + b"1," * 600, headers=json).status_code == 413
    assert client.post("/api/ask/file?ending=png", content=b"x" * 2001, headers=allowed).status_code == 413

    def pieces():
        for _ in range(30):
            yield b"x" * 100

    assert client.post("/api/items", content=pieces(), headers=json).status_code == 413
    assert client.post("/api/ask/file?ending=png", content=pieces(), headers=allowed).status_code in (413, 422)
    assert client.post("/api/items", json={"items": [1]}, headers=allowed).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["../_app.py", "..%2f_app.py", "%2e%2e/_app.py", "..%5c_app.py", "%2fetc%2fpasswd", "index.html", "app.js%00.css"],
)
def test_the_page_s_folder_is_not_left(client, path):
    answer = client.get(f"/static/{path}")
    assert answer.status_code in (401, 404)
    assert "import" not in answer.text


def test_files_of_items_are_given_and_no_others(tmp_path):
    inside, outside = tmp_path / "data", tmp_path / "secret.png"
    (inside / "cats").mkdir(parents=True)
    png = b"\x89PNG\r\n\x1a\n" + bytes(20)
    for place in (inside / "cats" / "1.png", outside):
        place.write_bytes(png)
    (inside / "notes.txt").write_text("private")
    (inside / "script.svg").write_text("<svg><script/></svg>")
    (inside / "liar.png").write_text("no picture at all")
    (inside / "link.png").symlink_to(outside)
    (inside / "way").symlink_to(tmp_path)
    assert original(str(inside), "cats/1.png") == ((inside / "cats" / "1.png").resolve(), "image/png")
    strange = ["../secret.png", str(outside), "cats/../../secret.png", "link.png", "way/secret.png", "notes.txt"]
    strange += ["script.svg", "liar.png", "cats", "absent.png", "", "a\0.png", "cats/1.png\0", "\\\\host\\x.png"]
    for uri in strange:
        assert original(str(inside), uri) is None, uri
    assert original("", "cats/1.png") is None
    assert original(str(inside / "cats" / "1.png"), "1.png") is None


def test_a_stranger_s_run_gives_no_files_of_this_machine(tmp_path, token, allowed, run_of):
    from tacit.store import Items

    run = run_of(tmp_path / "run", 9)
    uris = ["etc/passwd", "../../../../etc/passwd", "etc/hostname.png"] * 3
    items = Items.open(run)
    items.update({"uri": uris, "source": ["/"] * 9})
    with TestClient(create_app(Explored(run), token=token), base_url=HERE) as client:
        for item in range(9):
            assert client.get(f"/api/file/{item}", headers=allowed).status_code == 404


def test_other_machines_need_a_token_that_cannot_be_guessed():
    check_access("127.0.0.1", None)
    check_access("0.0.0.0", "a long word of my own")
    with pytest.raises(ArgumentError, match="--token"):
        check_access("0.0.0.0", None)
    with pytest.raises(ArgumentError, match="16 characters"):
        check_access("0.0.0.0", "short")


def test_the_next_port_is_taken_where_one_is_in_use():
    first, second = listen("127.0.0.1", None), listen("127.0.0.1", None)
    try:
        assert first.getsockname()[1] != second.getsockname()[1]
        assert first.getsockname()[0] == "127.0.0.1"
    finally:
        first.close()
        second.close()

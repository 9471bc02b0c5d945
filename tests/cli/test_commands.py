import json
import re

import pytest
import yaml

from tacit.cli import main
from tacit.settings import LearnSettings


def called(library, name):
    return next(call for call in library.CALLS if call[0] == name)


def test_learn_shows_plan_numbers_and_the_next_command(library, capsys, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "report.html").touch()
    assert main(["learn", "demo", "--out", str(out), "--learning_rate", "1e-3", "--checkpoint-every", "50"]) == 0
    said = capsys.readouterr()
    for line in (*library.Plan(LearnSettings(data="demo")).lines(), *library.Run(out).numbers()):
        assert line in said.out
    assert f"Report: {out}/report.html" in said.out
    assert f"Next:\n  tacit search {out} photo.jpg" in said.out
    assert "tacit: --learning_rate is called --lr here" in said.err
    assert "1,181 of 1,200 steps" in said.err
    settings = called(library, "plan")[1]
    assert (settings.lr, settings.checkpoint_every) == (0.001, 50)
    assert settings.model_fields_set == {"data", "out", "lr", "checkpoint_every"}


def test_quiet_learn_says_only_the_result(library, capsys):
    assert main(["learn", "demo", "--quiet"]) == 0
    said = capsys.readouterr()
    assert "4,000 pictures" not in said.out
    assert "12 clusters" in said.out
    assert called(library, "carry_out") == ("carry_out", False)


def test_a_finished_run_is_shown_and_not_run_again(library, capsys):
    assert main(["learn", "finished"]) == 0
    assert "12 clusters" in capsys.readouterr().out
    assert not any(call[0] == "carry_out" for call in library.CALLS)


def test_dry_run_prints_a_config_that_can_be_read_back(library, capsys, tmp_path):
    chosen = ["--batch-size", "64", "--minutes", "3", "--method", "simclr", "--method.temperature", "0.2"]
    assert main(["learn", "demo", "--dry-run", *chosen]) == 0
    said = capsys.readouterr().out
    assert said.startswith("# demo: 4,000 pictures of 64 pixels [all read]\n")
    path = tmp_path / "config.yaml"
    path.write_text(said)
    again = LearnSettings.from_file(path)
    assert (again.batch_size, again.method, again.model, again.max_steps) == (64, "simclr", "resnet8", 1200)
    assert (again.lr, again.precision, again.minutes) == (0.002, "32-true", None)
    assert again.arguments == {"temperature": 0.2}
    assert not any(call[0] == "carry_out" for call in library.CALLS)


def test_config_file_and_flags(library, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"data": "demo", "epochs": 100, "method": {"name": "simclr", "temperature": 0.1}}))
    assert main(["learn", "-c", str(path), "--max-steps", "9", "--overwrite"]) == 0
    settings = called(library, "plan")[1]
    assert (settings.data, settings.epochs, settings.max_steps, settings.overwrite) == ("demo", None, 9, True)
    assert settings.arguments == {"temperature": 0.1}


@pytest.mark.parametrize(
    "words",
    [
        "learn demo --json",
        "learn finished --json",
        "learn demo --dry-run --json",
        "embed hf:some/name demo --json",
        "search run q.jpg --json",
        "search run --duplicates --json",
        "report run --json",
        "export run --json",
        "systems --json",
        "--version --json",
    ],
)
def test_every_command_prints_one_json_object(library, capsys, words):
    assert main(words.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert isinstance(json.loads(lines[0], parse_constant=pytest.fail), dict)


def test_json_of_learn_holds_the_summary_and_leaves_the_talk_to_standard_error(library, capsys):
    main(["learn", "demo", "--json"])
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert answer["summary"] == {"health": {"word": "learning", "effective_rank": 41.25}, "stability": None}
    assert (answer["state"], answer["folder"], len(answer["numbers"])) == ("new", "run", 3)
    assert "a library that talks" in said.err


def test_embed_hands_on_its_settings(library, capsys):
    assert (
        main(
            [
                "embed",
                "timm:vit_tiny",
                "photos",
                "--image-size",
                "64",
                "--labels",
                "none",
                "--on_error",
                "raise",
                "--quiet",
            ]
        )
        == 0
    )
    expected = {"out": "embedded", "labels": "none", "image_size": 64, "on_error": "raise", "overwrite": False}
    assert called(library, "embed_run") == ("embed_run", "timm:vit_tiny", "photos", {**expected, "progress": False})
    assert "12 clusters" in capsys.readouterr().out


def test_search_prints_score_and_whole_path(library, capsys):
    assert main(["search", "run", "q.jpg", "-k", "3"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows == [[f"{hit.score:.3f}", hit.uri] for hit in library.Run("run").search("q.jpg", 3)]


def test_search_by_the_number_of_an_item(library, capsys):
    assert main(["search", "run", "--item", "12", "-k", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert called(library, "search") == ("search", 12, 2)
    assert answer["query"] == 12
    assert [list(hit) for hit in answer["hits"]] == [["item", "uri", "score", "text"]] * 2


def test_hits_with_texts_are_one_line_each(library, capsys, monkeypatch):
    assert main(["search", "run", "cats at night", "-k", "4"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    whole = " ".join(["the cat sleeps"] * 20)
    assert rows == [["0.500", f"{'notes/' * number}{number}.txt", whole] for number in range(4)]  # a pipe cuts nothing
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    assert main(["search", "run", "cats at night", "-k", "9"]) == 0
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 10
    assert all(len(line) <= 60 for line in lines)
    assert lines[1].split()[:2] == ["0.500", "0.txt"]
    assert "the cat sleeps the cat" in lines[1]
    assert "otes/8.txt" in lines[9]


def test_duplicates_are_grouped(library, capsys):
    assert main(["search", "run", "--duplicates"]) == 0
    said = capsys.readouterr().out
    assert "group 1: 2 items, identical\n  a.jpg\n" in said
    assert "group 2: 2 items, similarity 0.987\n  c.jpg\n  d.jpg\n" in said


def test_report_and_export_answer_with_a_path(library, capsys):
    assert main(["report", "run", "--no-thumbnails"]) == 0
    assert main(["export", "run", "--to", "safetensors", "-o", "e.st"]) == 0
    assert capsys.readouterr().out == "run/report.html\ne.st\n"
    assert called(library, "report") == ("report", False)
    assert called(library, "export") == ("export", "safetensors", "e.st")


def test_systems_by_area_and_modality(capsys):
    assert main(["systems", "--area", "pretrain", "--modality", "image"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert all(row[0] == "pretrain" and len(row) == 13 for row in rows)
    assert ["pretrain", "simclr", "SimCLR", "learner", "baseline", "arXiv:2002.05709"] in [row[:6] for row in rows]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("learn", "data=None: expected a folder, a zip, a glob"),
        ("learn demo --epochs 0", "epochs=0: expected a whole number, at least 1"),
        ("learn demo --lr -1", "lr=-1: expected a number above 0"),
        ("learn demo --method simcrl", "did you mean 'simclr'?"),
        ("learn demo --batchsize 3", "learn has no flag --batchsize; did you mean --batch-size?"),
        ("learn demo --epochs 1 --minutes 2", "expected at most one of epochs, max_steps, minutes"),
        ("learn demo more", "more"),
        ("learn demo -c nowhere.yaml", "config='nowhere.yaml': expected a yaml or json file"),
        ("learn other-settings", "out='run': holds a run with other settings: lr: 0.1 there, 0.2 here"),
        ("learn nan", "the loss is nan at step 3"),
        ("learn full-disk", "No space left on device: run/model.safetensors; make room"),
        ("lern demo", "there is no command 'lern'; did you mean 'learn'?"),
        ("--json learn demo", "--json: expected after the command"),
        ("search run", "search=None: expected one of QUERY, --item and --duplicates; try: tacit search run"),
        ("search run q.jpg --duplicates", "search='QUERY and --duplicates': expected one of"),
        ("search run q.jpg --item 3", "search='QUERY and --item': expected one of"),
        ("search run --item x", "item='x': expected the number of an item"),
        ("search run --item -1", "item=-1: expected the number of an item"),
        ("search run q.jpg -k 0", "k=0: expected a whole number"),
        ("search run q.jpg -k x", "k='x': expected a whole number"),
        ("search nowhere q.jpg", "run='nowhere': expected a folder"),
        ("search", "RUN"),
        ("search run q.jpg --threads 0", "threads=0: expected a whole number"),
        ("export run --to onx", "did you mean 'onnx'?"),
        ("systems --area pretrian", "did you mean 'pretrain'?"),
        ("systems --modality imagee", "did you mean 'image'?"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(library, capsys, words, says):
    assert main(words.split()) == 2
    said = capsys.readouterr()
    line = said.err.splitlines()[-1]
    assert line.startswith("tacit: ")
    assert says in line
    assert "Traceback" not in said.err


def test_debug_shows_the_traceback(library, monkeypatch):
    monkeypatch.setenv("TACIT_DEBUG", "1")
    with pytest.raises(OSError, match="No space left"):
        main(["learn", "full-disk"])


def test_a_fault_of_the_program_is_not_hidden(library):
    with pytest.raises(ZeroDivisionError):
        main(["learn", "bug"])


def test_interrupt_says_that_the_same_command_goes_on(library, capsys):
    assert main(["learn", "interrupted"]) == 130
    assert (
        capsys.readouterr().err.splitlines()[-1] == "tacit: stopped; the same command goes on from the last checkpoint"
    )


def test_an_interrupted_overwrite_goes_on_without_the_flag(library, capsys):
    assert main(["learn", "interrupted", "--overwrite"]) == 130
    assert "the same command without --overwrite goes on" in capsys.readouterr().err


def test_every_setting_is_an_option_of_learn(capsys):
    assert main(["learn", "--help"]) == 0
    said = capsys.readouterr().out
    for name in LearnSettings.model_fields.keys() - {"data", "arguments"}:
        assert "--" + name.replace("_", "-") in said
    assert "--method.NAME" in said

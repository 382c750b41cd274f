"""Commands end with an exit status and in words, whatever the output's encoding, its reader and the disk."""

from __future__ import annotations

import io
import logging
import os
import sys

import pytest
from rich.table import Table

from common.console import Console
from common.finite import NotFiniteError
from common.signals import EXIT_INTERRUPTED
from common.terminal import READER_LEFT, command, printable

SIGNS = "✓ ✗ → – ± × … é 日 \udcff"


def stream(encoding, file=None):
    return io.TextIOWrapper(file or io.BytesIO(), encoding=encoding, write_through=True)


def written(text_stream):
    return text_stream.buffer.getvalue().decode(text_stream.encoding)


def test_printable_escapes_what_a_terminal_would_obey():
    assert printable("a b é 日/[/x].mp4") == "a b é 日/[/x].mp4"
    assert printable("\x1b[31m\r\n\u202e\x9b\udcff") == r"\x1b[31m\r\n\u202e\x9b\udcff"
    assert printable("one\ntwo\x07", lines=True) == "one\ntwo\\x07"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_output_of_any_encoding_gets_plainer_signs_and_no_error(monkeypatch, encoding):
    out, err = stream(encoding), stream(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    @command("name", ValueError)
    def main():
        print(SIGNS)
        logging.Logger("alone").warning(SIGNS)
        raise ValueError(SIGNS)

    assert main() == 2
    known = {"ascii": r"+ x -> - +- x ... \xe9 \u65e5 ", "latin-1": r"+ x -> - ± × ... é \u65e5 "}
    assert written(out) == known.get(encoding, SIGNS[:-1]) + "\\udcff\n"
    assert written(err) == "{0}\nname: {0}\n".format(known.get(encoding, SIGNS[:-1]) + "\\udcff")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(13, "Permission denied", "/x/[/y]\x1b"),
            r"cannot read or write /x/[/y]\x1b: Permission denied",
        ),
        (OSError(28, "No space left on device"), "cannot read or write: No space left on device"),
        (NotFiniteError("the scores are not finite"), "the scores are not finite"),
    ],
)
def test_errors_for_the_user_are_one_sentence_and_status_two(capsys, error, message):
    @command("name", NotFiniteError)
    def main():
        raise error

    assert main() == 2
    assert capsys.readouterr().err == f"name: {message}\n"


def test_an_error_of_the_code_is_not_hidden():
    @command("name")
    def main():
        raise KeyError("bug")

    with pytest.raises(KeyError):
        main()


def test_ctrl_c_ends_in_a_word_and_its_status(capsys):
    @command("name")
    def main():
        raise KeyboardInterrupt

    assert main() == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "name: interrupted\n"


def test_a_status_is_passed_on_and_none_is_zero():
    assert command("name")(lambda status: status)(1) == 1
    assert command("name")(lambda: None)() == 0


def test_a_reader_that_left_ends_the_command_quietly(monkeypatch, capfd):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)

        @command("name")
        def main():
            print("text")

        assert main() == READER_LEFT
    assert capfd.readouterr().err == ""


def test_a_broken_pipe_of_something_else_is_an_error(capsys):
    @command("name")
    def main():
        raise BrokenPipeError(32, "Broken pipe")

    assert main() == 2
    assert "Broken pipe" in capsys.readouterr().err


def test_output_onto_a_full_disk_is_an_error_in_words(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)

        @command("name")
        def main():
            print("text")

        assert main() == 2
    assert capsys.readouterr().err == "name: cannot read or write: No space left on device\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_strings_on_the_console_are_never_markup_and_stay_on_their_line(encoding):
    out = stream(encoding)
    table = Table("[/]", "±", title="[red]\x1b[2J")
    table.add_row("a/[/b]\n.mp4 :smile:", "→")
    Console(file=out, width=80).print(table)
    Console(file=out, width=80).print("[/x] –")
    text = written(out)
    plain = encoding == "ascii"
    assert all(part in text for part in (r"[red]\x1b[2J", r"a/[/b]\n.mp4 :smile:", "[/]", "->" if plain else "→"))
    assert text.endswith("[/x] -\n" if plain else "[/x] –\n")
    widths = {len(line) for line in text.splitlines()[1:-1]}
    assert len(widths) == 1

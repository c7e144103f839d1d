"""Every reason that a photo can fail for has a cure that fits."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from apf.errors import PhotoError, PrivateFileError
from apf.photo import Limits, decode
from apf.private.files import Gradients
from producer.app.words import AT_THE_PAGE
from tests.faults.corpus import depths, empty, flipped, misnamed, polyglots, truncated
from tests.private_files import answer, gradient_file
from workers.core.failure_codes import FailureCode, code_of, known_code
from workers.report.advice import AT_A_TERMINAL, OF_THE_API, Reader, cure


def test_every_photo_of_the_corpus_that_is_refused_has_a_cure_of_its_own() -> None:
    """Hundreds of damaged, odd and hostile files: none is left with the general advice."""
    refused: dict[str, str] = {}
    for family in (truncated, flipped, misnamed, empty, depths, polyglots):
        for key, data in family():
            try:
                decode(data)
            except PhotoError as error:
                refused[f"{family.__name__}/{key}"] = str(error)
                # As a report of a version before the codes says it; damage may look like a kind that is not known.
                codes = {code_of(error), known_code("", str(error))}
                assert len(codes) == 1 or codes == {FailureCode.corrupt, FailureCode.unsupported}, (key, str(error))
    assert len(refused) > 150
    other = cure("", transient=False, code="other")
    without = {key: reason for key, reason in refused.items() if cure(reason, transient=False) == other}
    assert without == {}


def cmyk() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).convert("CMYK").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "limits", "word"),
    [
        (cmyk(), Limits(), "RGB"),
        (b"GIF89a" + bytes(20), Limits(), "JPEG or PNG"),
        (b"no photo", Limits(), "backup"),
        (bytes(100), Limits(max_bytes=50), "APF_MAX_PHOTO_BYTES"),
        (b"FUJIFILMCCD-RAW " + bytes(50), Limits(), "raw converter"),
    ],
)
def test_the_cure_fits_the_photo(data: bytes, limits: Limits, word: str) -> None:
    """A colour space, a format, damage, a size and a camera's raw file each have their own advice."""
    with pytest.raises(PhotoError) as refused:
        decode(data, limits)
    assert word in cure(str(refused.value), transient=False)


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("changed while the batch ran: run the command again to protect the new version", "edited"),
        ("deleted while the batch ran", "Nothing to do"),
        ("'CMYK pages.jpg' in file:///x has 900 bytes, over the limit of 5", "Scale it down"),
        ("out of memory: lower APF_PHOTO_BUFFER_BYTES or APF_MAX_PHOTO_PIXELS", "Scale it down"),
        ("unexpected ValueError: x", "report it"),
        ("its worker died 3 times over it: look at the photo, or at the worker's memory", "Scale it down"),
        ("'a.jpg' in s3://memory was not written by apf and is left as it is: move it away", "--overwrite"),
        ("'a.jpg' in s3://x is the output of another photo, as far as is known, and is left as it is", "--overwrite"),
        ("'a.jpg' in s3://gradients is an output of apf itself (batch b), and to protect it again", "it is protected"),
        ("something new", "Mend what the reason says. Then use apf retry."),
    ],
)
def test_reasons_of_workers_and_stores_have_theirs(reason: str, word: str) -> None:
    """A photo's name in the reason does not decide."""
    assert word in cure(reason, transient=False)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: b"no file",
        lambda whole: whole[:-1],
        answer,
        lambda whole: whole.replace(b'"version":"1"', b'"version":"2"'),
    ],
    ids=["foreign", "cut short", "an answer", "a later version's"],
)
def test_a_gradient_file_is_mended_by_its_owner(spoil: Callable[[bytes], bytes]) -> None:
    """No photo program helps with it."""
    with pytest.raises(PrivateFileError) as refused:
        Gradients.decode(spoil(gradient_file(0)))
    assert "owner makes the gradient file again" in cure(str(refused.value), transient=False)


def test_what_may_pass_is_tried_again() -> None:
    """Whatever the reason says."""
    assert cure("damaged: cannot be decoded", transient=True) == "It may pass by itself: use apf retry."


@pytest.mark.parametrize("reader", [AT_A_TERMINAL, OF_THE_API, AT_THE_PAGE], ids=["terminal", "API", "app"])
@pytest.mark.parametrize("code", FailureCode)
def test_every_code_has_advice_that_its_reader_can_follow(code: FailureCode, reader: Reader) -> None:
    """Whole sentences; of a program or page none names a command, and of the app's none a variable."""
    for transient in (False, True):
        said = cure("whatever", transient=transient, code=code, reader=reader)
        assert said.endswith(".") and "{" not in said and "  " not in said
        assert reader is AT_A_TERMINAL or not re.search(r"\bapf (retry|protect)|--\w", said)
        assert reader.operates or not re.search(r"\bapf\b|APF_", said)


def test_a_code_of_a_newer_version_is_taken_for_its_reason() -> None:
    """A worker of tomorrow may know more codes; what it says in words is understood today."""
    assert known_code("made_up", "'a.jpg' has 900 bytes, over the limit of 5") is FailureCode.too_large
    assert known_code("", "nothing that is known") is FailureCode.other

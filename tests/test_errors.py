"""The message of a UserError is one printable line."""

from hypothesis import example, given
from hypothesis import strategies as st

from icf_avs.errors import UserError


@given(st.text())
@example("clip\nname\x1b[2J\x00\u2028.wav")
@example("Süden 東 'quoted'")
def test_the_message_is_one_printable_line(text: str) -> None:
    line = str(UserError(text))
    assert line.isprintable() and len(line.splitlines()) <= 1
    if text.isprintable():
        assert line == text

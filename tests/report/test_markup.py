"""What comes from data can't become HTML."""

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from gemma_tf_distill.report.markup import Markup, joined, tag


@given(words=st.text(), attribute=st.text())
def test_any_text_comes_back_as_text(words, attribute):
    element = ElementTree.fromstring(tag("p", words, title=attribute))
    assert list(element) == []
    allowed = [character for character in words if character == "\ufffd" or character.isprintable()]
    # XML reads line ends as \n, and what it can't hold is U+FFFD: everything that is printed stays.
    assert [character for character in element.text or "" if character.isprintable() and character != "\ufffd"] == [
        character for character in allowed if character != "\ufffd"
    ]
    assert set(element.attrib) == {"title"}


def test_markup_is_kept_and_text_is_not_markup():
    assert tag("p", tag("b", "<i>"), "<i>") == "<p><b>&lt;i&gt;</b>&lt;i&gt;</p>"
    assert tag("p", "<script>alert(1)</script>", title='"><script>') == (
        '<p title="&quot;&gt;&lt;script&gt;">&lt;script&gt;alert(1)&lt;/script&gt;</p>'
    )
    assert isinstance(joined("a", Markup("<b/>")), Markup)


def test_attributes_and_void_elements():
    assert tag("line", x1=0, class_="grid", aria_hidden="true", id=None, open=False, hidden=True) == (
        '<line x1="0" class="grid" aria-hidden="true" hidden="hidden"/>'
    )
    assert tag("p") == "<p></p>"
    assert joined("a", None, 0) == "a0"

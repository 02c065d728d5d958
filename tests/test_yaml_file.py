"""The YAML reader: YAML 1.2's scalars, the line of every key, and nothing that can blow up."""

import json
import math
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.yaml_file import YamlFile, parse_scalar, read_yaml
from pipeline.errors import UserError

PROPERTY = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# Text that is made of what YAML gives a meaning to finds more than random letters do.
FRAGMENTS = st.sampled_from(
    [
        *"\n\t :-?[]{},#&*!|>'\"%@`~\\",
        *("\n  ", ": ", "- ", "? ", "<<: ", "---\n", "...\n", "a", "1e5", "&a ", "*a", "!!int "),
        *('"\\u12', '"\\UFFFFFFFF"', '"\\uD800"', "\x00", "\ufeff", "\u2028", "é", "\U0001f600"),
    ]
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(FRAGMENTS, max_size=80).map("".join))

WORDS = st.text(string.ascii_letters + string.digits + " _-:#'\"é{}[],&*!|>%@", max_size=12)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**18) + 1, 10**18 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    WORDS,
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "space.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return read_yaml(path)

    return read


def outcome(read, given):
    """What was read, or the user's error: anything else goes up."""
    try:
        return read(given)
    except UserError as error:
        return error


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-.5e+3", -500.0),
        ("1.", 1.0),
        ("+2", 2),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0x1F", "-0x1F"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("tRUE", "tRUE"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("NULL", None),
        ("-.inf", -math.inf),
        ("inf", "inf"),
        ("1e", "1e"),
        (".", "."),
    ],
)
def test_plain_scalars_are_those_of_yaml_1_2(text, value):
    parsed = parse_scalar(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_a_whole_number_stays_one_and_an_endless_one_costs_nothing():
    assert parse_scalar("123456789012345678") == 123456789012345678
    assert parse_scalar("9" * 60_000) == math.inf  # int() would need minutes


def test_quotes_make_text(read):
    assert read("a: \"1e-5\"\nb: 'no'\nc: 1e-5").data == {"a": "1e-5", "b": "no", "c": 1e-5}


def test_every_key_and_item_knows_its_line(read):
    file = read("# a comment\na:\n  b: 1\n\n  c: [1,\n    {d: 2}]\ne: 3\n")
    lines = {place: int(file.where(place).rpartition(":")[2]) for place in file.lines}
    assert lines == {
        (): 2,
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 5,
        ("a", "c", 0): 5,
        ("a", "c", 1): 6,
        ("a", "c", 1, "d"): 6,
        ("e",): 7,
    }


def test_what_the_file_does_not_spell_out_is_where_its_section_is(read):
    file = read("a: 1\nb:\n  c: {d: 1}\n")
    assert file.where(("b", "c", "missing", "deeper")).endswith("space.yaml:3")
    assert file.where(("missing",)).endswith("space.yaml:1")


def test_a_byte_order_mark_and_windows_line_ends_are_taken(read):
    file = read("\ufeffa: 1\r\nb: 2\r\n")
    assert file.data == {"a": 1, "b": 2}
    assert file.where(("b",)).endswith(":2")


@PROPERTY
@given(st.dictionaries(WORDS, TREES, max_size=5))
def test_json_is_read_as_it_is(read, data):
    assert read(json.dumps(data, ensure_ascii=False)).data == data


@PROPERTY
@given(TEXTS)
def test_any_text_is_a_mapping_or_an_error_with_file_and_line(read, text):
    found = outcome(read, text)
    if not isinstance(found, UserError):
        assert isinstance(found.data, dict)
    else:
        assert ".yaml:" in found.where
        assert found.what
        assert found.rule
        assert found.cure


@PROPERTY
@given(st.binary(max_size=200))
def test_any_bytes_are_a_mapping_or_an_error(tmp_path, raw):
    (tmp_path / "space.yaml").write_bytes(raw)
    found = outcome(read_yaml, tmp_path / "space.yaml")
    assert isinstance(found.data, dict) if isinstance(found, YamlFile) else ".yaml:" in found.where


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(
    f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 30)
)


@pytest.mark.timeout(20)  # without the limits: minutes, or all of the memory
@pytest.mark.parametrize(
    "bomb",
    [
        LAUGHS,
        "a: " + "[" * 30_000,
        "a: " + "{a: " * 10_000,
        "- " * 30_000,
        "? " * 30_000,
        "a: " + "9" * 60_000,
        "a: 1" + "e9" * 20_000,
        "a: !!python/object/apply:time.sleep [600]",
        "a: |\n" + " \n" * 30_000,
        "x" * 2_000_000,
    ],
    ids=lambda bomb: bomb[:12],
)
def test_bombs_are_small_again(read, bomb):
    found = outcome(read, bomb)
    assert len(found.lines) < 10 if isinstance(found, YamlFile) else len(str(found)) < 1000


def test_an_endless_file_is_not_read_to_its_end(tmp_path):
    (tmp_path / "space.yaml").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="more than 64,000 bytes"):
        read_yaml(tmp_path / "space.yaml")

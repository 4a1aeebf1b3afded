"""jingxiang.tables"""

from __future__ import annotations

from pathlib import Path

import pytest

from jingxiang import tables
from jingxiang.errors import JingxiangError, TableError, UnknownName
from jingxiang.tables import Table


def table(tmp_path: Path, text: str) -> Table:
    path = tmp_path / "cars.toml"
    path.write_text(text, encoding="utf-8")
    return tables.read(path)


def problem(tmp_path: Path, text: str, read: str, *arguments: object) -> str:
    """The message of the error that one read of the file gives."""
    with pytest.raises(TableError) as caught:
        getattr(table(tmp_path, text), read)(*arguments)
    return caught.value.message


def test_values_are_read_as_what_they_are(tmp_path: Path) -> None:
    values = table(tmp_path, 'name = "Hongqi 红旗"\nseats = 4\nlength = 5.1\nfuel = "none"\n')
    assert values.string("name") == "Hongqi 红旗"
    assert values.integer("seats") == 4
    assert values.number("length") == 5.1
    assert values.choice("fuel", ("none", "petrol")) == "none"


def test_true_and_false_are_read_and_nothing_else_is(tmp_path: Path) -> None:
    values = table(tmp_path, "red = true\nblue = false\ngreen = 1\n")
    assert (values.boolean("red"), values.boolean("blue"), values.boolean("grey", default=True)) == (True, False, True)
    with pytest.raises(TableError, match=r"^cars\.toml: green: should be true or false, not a whole number$"):
        values.boolean("green")


def test_a_whole_number_is_a_number_too(tmp_path: Path) -> None:
    length = table(tmp_path, "length = 5\n").number("length")
    assert (length, type(length)) == (5.0, float)


def test_a_span_is_two_numbers_the_smaller_one_first(tmp_path: Path) -> None:
    assert table(tmp_path, "length = [1, 2.5]").span("length") == (1, 2.5)
    for wrong in ("[1]", "[1, 2, 3]", "[2, 1]", '[1, "2"]', "[true, 2]"):
        message = problem(tmp_path, f"length = {wrong}", "span", "length")
        assert message == "cars.toml: length: should be two numbers, the smaller one first"


def test_a_table_may_be_left_out(tmp_path: Path) -> None:
    values = table(tmp_path, "[engine]\npower = 1\n")
    assert values.optional("engine").integer("power") == 1
    assert values.optional("roof").values == {}
    with pytest.raises(TableError, match=r"^cars\.toml: roof\.height: is missing; it should be a number$"):
        values.optional("roof").number("height")


def test_what_is_missing_takes_its_default(tmp_path: Path) -> None:
    values = table(tmp_path, "")
    assert (values.string("name", "x"), values.integer("seats", 0), values.number("length", 0.5)) == ("x", 0, 0.5)
    assert values.choice("fuel", ("none", "petrol"), "petrol") == "petrol"


def test_a_misspelt_key_is_refused_with_its_path(tmp_path: Path) -> None:
    inner = table(tmp_path, "[hongqi.engine]\npowr = 1\n").table("hongqi").table("engine")
    with pytest.raises(UnknownName) as caught:
        inner.only("power", "torque")
    assert caught.value.message == (
        "cars.toml: hongqi.engine.powr: no key named 'powr'; there is power, torque (did you mean 'power'?)"
    )


def test_keys_that_are_known_pass(tmp_path: Path) -> None:
    table(tmp_path, "power = 1\n").only("power", "torque")


def test_a_missing_key_is_named_with_what_it_should_be(tmp_path: Path) -> None:
    assert problem(tmp_path, "", "string", "name") == "cars.toml: name: is missing; it should be a string"
    assert problem(tmp_path, "", "integer", "seats") == "cars.toml: seats: is missing; it should be a whole number"
    assert problem(tmp_path, "", "table", "engine") == "cars.toml: engine: is missing; it should be a table"


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        ("string", "4", "should be a string, not a whole number"),
        ("string", "[]", "should be a string, not a list"),
        ("integer", '"4"', "should be a whole number, not a string"),
        ("integer", "4.0", "should be a whole number, not a number"),
        ("integer", "true", "should be a whole number, not true or false"),
        ("number", "true", "should be a number, not true or false"),
        ("number", "{}", "should be a number, not a table"),
        ("table", "1979-05-27", "should be a table, not date"),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path: Path, read: str, value: str, message: str) -> None:
    assert problem(tmp_path, f"key = {value}\n", read, "key") == f"cars.toml: key: {message}"


def test_a_choice_that_is_not_allowed_is_refused_with_those_that_are(tmp_path: Path) -> None:
    message = problem(tmp_path, 'fuel = "coal"\n', "choice", "fuel", ("none", "petrol"))
    assert message == "cars.toml: fuel: 'coal' is not one of none, petrol"


def test_all_tables_come_by_name_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = table(tmp_path, "[b]\nx = 1\n[a]\n").tables()
    assert found == {"b": Table("cars.toml", "b", {"x": 1}), "a": Table("cars.toml", "a", {})}
    assert list(found) == ["b", "a"]


def test_a_value_among_tables_is_refused(tmp_path: Path) -> None:
    assert problem(tmp_path, "[a]\n[b]\nc = 1\n", "string", "a") == "cars.toml: a: should be a string, not a table"
    assert problem(tmp_path, "x = 1\n[a]\n", "tables") == "cars.toml: x: should be a table, not a whole number"


def test_a_syntax_error_is_said_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(TableError) as caught:
        table(tmp_path, "[a]\nname\n")
    assert caught.value.message == (
        "cars.toml: is not valid TOML: Expected '=' after a key in a key/value pair (at line 2, column 5)"
    )


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cars.toml").write_bytes('name = "红旗"\n'.encode("gb18030"))
    with pytest.raises(JingxiangError) as caught:
        tables.read(tmp_path / "cars.toml")
    assert caught.value.message.startswith("cars.toml: is not valid TOML: 'utf-8' codec can't decode byte")


def test_a_missing_file_is_called_by_the_name_that_people_know(tmp_path: Path) -> None:
    with pytest.raises(TableError) as caught:
        tables.read(tmp_path / "cars.toml", "MY_CARS")
    assert caught.value.message == "MY_CARS: cannot be read: No such file or directory"


def test_an_error_in_a_file_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(TableError) as caught:
        tables.read(tmp_path / "cars.toml")
    assert caught.value.exit_code == 2

"""What of a list of numbers is one with another, asked of a table, is what comparing each with each says."""

from hypothesis import given
from hypothesis import strategies as st

from connectors.contexts import Numbers, among
from processors.events import Identifier

numbers = st.builds(
    Identifier,
    authority=st.sampled_from(["", "HOSP", "hosp", "SSA"]),
    value=st.sampled_from(["1", "2", "3"]),
    kind=st.sampled_from(["", "MR", "mr", "PI", "AN", "VN"]),
)


def of_one_row(one: Identifier, other: Identifier) -> bool:
    kinds = {one.kind.upper(), other.kind.upper()}
    return one.authority.casefold() == other.authority.casefold() and (len(kinds) == 1 or "" in kinds)


@given(numbers, st.lists(numbers, max_size=6))
def test_a_table_of_numbers_says_what_comparing_each_says(number: Identifier, listed: list[Identifier]) -> None:
    table = Numbers(listed)
    assert (number in table) == among(number, listed)
    assert table.row(number) == any(of_one_row(number, one) for one in listed)
    assert table.alone(number) == all(one.value == number.value for one in listed if of_one_row(number, one))

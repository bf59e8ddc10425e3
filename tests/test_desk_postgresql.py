"""The desk's tests again, on a real PostgreSQL server, where several processes write."""

from collections.abc import Iterator

import pytest
from test_desk import (  # noqa: F401
    clock,
    desk,
    test_a_changed_answer_is_a_new_revision,
    test_a_test_is_decided_by_its_first_answers,
    test_active_selection_leaves_a_random_arm,
    test_an_answer_is_a_training_row,
    test_disagreement_asks_one_more,
    test_drafts_are_kept_until_the_answer,
    test_every_item_is_asked_as_often_as_wanted,
    test_every_kind_becomes_its_records,
    test_gold_is_mixed_in_and_never_trained_on,
    test_leases_end_and_a_late_answer_is_kept,
    test_many_raters_at_once_get_no_item_twice,
    test_onboarding_is_passed_first,
    test_reasons_for_nothing,
    test_repeats_come_with_the_sides_swapped,
    test_the_same_submission_five_times_is_one_row,
    test_undo_gives_the_item_back,
)
from test_people import (  # noqa: F401
    admin,
    cheap_hashes,
    entrance,
    people,
    talk,
    test_a_hundred_tries_at_once_are_counted,
    test_a_session_ends,
    test_an_erased_conversation_gives_its_seat_back,
    test_an_invitation_is_used_once_even_by_many_at_once,
    test_the_trail_says_who_did_what,
    test_what_was_erased_may_be_said_again,
)
from test_postgresql import server, url  # noqa: F401

from tutelage.feedback.store import Store


@pytest.fixture
def store(url: str) -> Iterator[Store]:  # noqa: F811
    with Store(url) as opened:
        yield opened

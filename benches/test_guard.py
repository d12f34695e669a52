"""Tests of guard.py, which `guard` runs before it measures."""

import unittest

import guard


class Comparison(unittest.TestCase):
    RECORDED = {"compiler": "rustc 1", "instructions": {"a": 1_000_000, "b": 500}}

    def test_one_percent_more_fails_and_one_percent_less_is_a_note(self):
        for count, expected in ((1_009_999, (0, 0)), (1_010_001, (1, 0)), (990_001, (0, 0)), (989_999, (0, 1))):
            grew, fell = guard.compare_counts(self.RECORDED, {"a": count, "b": 500}, "rustc 1")
            self.assertEqual((len(grew), len(fell)), expected, count)

    def test_another_compiler_has_five_percent(self):
        for count, fails in ((1_049_999, False), (1_050_001, True)):
            grew, _ = guard.compare_counts(self.RECORDED, {"a": count, "b": 500}, "rustc 2")
            self.assertEqual(bool(grew), fails, count)

    def test_a_count_that_is_missing_fails(self):
        grew, _ = guard.compare_counts(self.RECORDED, {"a": 1_000_000}, "rustc 1")
        self.assertEqual(len(grew), 1)

    def test_scatter_widens_the_tolerance(self):
        # 5 % without scatter, and twice a scatter of 10 %.
        for recorded, now, fails in (([0.8, 0.8], 0.77, False), ([0.8, 0.8], 0.75, True), ([0.8, 0.72], 0.65, False), ([0.8, 0.72], 0.63, True)):
            worse, disturbed = guard.compare_shares({"int8": recorded}, {"int8": [now]})
            self.assertEqual(bool(worse), fails, (recorded, now))
            self.assertFalse(disturbed)

    def test_disturbed_runs_are_not_compared(self):
        worse, disturbed = guard.compare_shares({"int8": [0.9, 0.88]}, {"int8": [0.5, 0.3]})
        self.assertEqual((len(worse), len(disturbed)), (0, 1))

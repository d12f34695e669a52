"""Tests of boards.py, which `predict --check` runs."""

import unittest

import boards


class Rates(unittest.TestCase):
    def test_exact_times_give_their_rates(self):
        rates = [0.5, 0.4, 1.25]
        counts = [[1, 0, 0.5], [0, 2, 0.25], [3, 1, 1], [0.5, 0.25, 4]]
        samples = [(c, sum(n * rate for n, rate in zip(c, rates))) for c in counts]
        for found, rate in zip(boards.cycles_per_instruction(samples), rates):
            self.assertAlmostEqual(found, rate, places=9)

    def test_a_rate_is_not_negative(self):
        # Without that limit the second kind would have to make up for the first.
        rates = boards.cycles_per_instruction([([1, 0, 1], 2.0), ([1, 1, 1], 1.5), ([2, 0, 1], 3.0)])
        self.assertGreaterEqual(min(rates), 0)

    def test_a_row_is_judged_by_the_others(self):
        for board in boards.BOARDS:
            calibration = boards.Calibration(board)
            self.assertGreaterEqual(len(calibration.published), 25)
            with_it = calibration.milliseconds(self.counts(board, "resnet50")) / calibration.published["resnet50"] - 1
            # It pulls the rates towards itself.
            self.assertGreater(abs(calibration.errors["resnet50"]), abs(with_it))
            self.assertLess(calibration.mean_error(), 0.25)

    def counts(self, board, network):
        (row,) = [r for r in boards.rows("instructions/ncnn.tsv") if (r["cpu"], r["network"]) == (board.emulated, network)]
        return boards.by_kind(row)

    def test_more_threads_are_faster_and_less_certain(self):
        for _, board, one, several in boards.predictions():
            self.assertLess(several.high, one.high)
            self.assertGreater(several.high / several.low, one.high / one.low, board.name)

    def test_middle_leaves_out_both_ends(self):
        found = boards.middle(range(11))
        self.assertAlmostEqual(found.low, 1)
        self.assertAlmostEqual(found.high, 9)

    def test_arms_times_fit_as_the_document_says(self):
        fits = {(precision, program): fits for precision, program, *_, fits in boards.check_with_arm()}
        self.assertEqual(fits["int8", "ONNX Runtime"], "4")
        self.assertEqual({fits["int8", "Pinhole"], fits["f32", "ONNX Runtime"], fits["f32", "Pinhole"]}, {"1"})

// SPDX-License-Identifier: BSD-3-Clause
#include <cmath>
#include <numeric>

#include "tensor_ranks.h"

namespace lockstep::testing {
namespace {

using Differentiable = std::function<torch::Tensor(const torch::Tensor&)>;

constexpr double kStep = 1e-5;
constexpr double kTolerance = 1e-7;  // of a central difference in double, with this step

class AutogradCollectives : public TensorRanks {};
INSTANTIATE_TEST_SUITE_P(Ranks, AutogradCollectives, ::testing::Values(1, 2, 3, 4));

/// A loss whose gradient has no order in memory: it comes through a transposition, and another part
/// of it is one number expanded.
torch::Tensor uneven_loss(const torch::Tensor& output, int rank) {
  const auto turned = output.reshape({-1, output.size(-1)}).t();
  const auto weights = fractions(turned.sizes(), 3 + rank);
  return (turned * weights).sum() + 0.5 * turned.square().sum() + output.sum();
}

double total_loss(const torch::Tensor& input, const Differentiable& function, ProcessGroup& group) {
  const torch::NoGradGuard no_grad;
  const auto loss = uneven_loss(function(input), group.rank()).clone();
  group.all_reduce(loss).wait();
  return loss.item<double>();
}

/// The ranks' losses are added: this rank's gradient is the derivative of the sum, by differences.
void expect_derivative_of_sum(const torch::Tensor& values, const Differentiable& function,
                              const GroupPointer& group) {
  const auto input = values.clone().requires_grad_(true);
  uneven_loss(function(input), group->rank()).backward();
  const auto gradient = input.grad().contiguous();
  for (int rank = 0; rank < group->size(); ++rank) {
    for (std::int64_t i = 0; i < values.numel(); ++i) {
      double differences[2];
      for (const int sign : {0, 1}) {
        auto moved = values.contiguous().clone();
        if (rank == group->rank()) moved.view(-1)[i] += sign == 0 ? kStep : -kStep;
        differences[sign] = total_loss(moved.view_as(values), function, *group);
      }
      if (rank != group->rank()) continue;
      const double slope = (differences[0] - differences[1]) / (2 * kStep);
      EXPECT_NEAR(gradient.view(-1)[i].item<double>(), slope, kTolerance * (1 + std::abs(slope)))
          << "element " << i << " of rank " << rank;
    }
  }
}

TEST_P(AutogradCollectives, HaveTheDerivativeOfTheSumOfLosses) {
  run([](const GroupPointer& group) {
    const int ranks = group->size();
    const auto own = fractions({2, 3}, 10 + group->rank());
    const auto rows = fractions({2 * ranks, 3}, 20 + group->rank());
    const auto square = fractions({2 * ranks, 3 * ranks}, 30 + group->rank());
    const int root = ranks - 1;
    for (const auto op : {ReduceOp::Sum, ReduceOp::Avg, ReduceOp::Max, ReduceOp::Min}) {
      SCOPED_TRACE(to_string(op));
      expect_derivative_of_sum(
          own, [&](const auto& x) { return autograd::all_reduce(x, group, op); }, group);
    }
    for (const auto op : {ReduceOp::Sum, ReduceOp::Avg}) {
      SCOPED_TRACE(to_string(op));
      expect_derivative_of_sum(
          rows, [&](const auto& x) { return autograd::reduce_scatter(x, group, op); }, group);
      expect_derivative_of_sum(
          rows.t(), [&](const auto& x) { return autograd::reduce_scatter(x, group, op, 1); },
          group);
    }
    expect_derivative_of_sum(
        own, [&](const auto& x) { return autograd::reduce(x, group, root); }, group);
    expect_derivative_of_sum(
        own, [&](const auto& x) { return autograd::broadcast(x, group, root); }, group);
    for (const int dim : {0, 1, -1}) {
      expect_derivative_of_sum(
          own, [&](const auto& x) { return autograd::all_gather(x, group, dim); }, group);
    }
    expect_derivative_of_sum(
        square, [&](const auto& x) { return autograd::all_to_all(x, group, 1, 0); }, group);
  });
}

TEST_P(AutogradCollectives, ExchangeUnequalRowsAndTheirGradients) {
  run([](const GroupPointer& group) {
    // Rank r has r + i rows for rank i, and gets as many from it as that one has.
    std::vector<std::int64_t> splits;
    for (int i = 0; i < group->size(); ++i) splits.push_back(group->rank() + i);
    const auto count = std::accumulate(splits.begin(), splits.end(), std::int64_t{0});
    auto input = whole_numbers({count, 2}, group->rank()).requires_grad_(true);
    const auto output = autograd::all_to_all(input, group, splits, splits);
    // The rows from rank r come back multiplied by what is only known here.
    const auto factor = static_cast<float>(2 + group->rank());
    (output * factor).sum().backward();
    std::int64_t row = 0;
    for (int i = 0; i < group->size(); ++i) {
      for (std::int64_t k = 0; k < splits[static_cast<std::size_t>(i)]; ++k, ++row) {
        EXPECT_EQ(input.grad()[row][0].item<float>(), static_cast<float>(2 + i)) << row;
      }
    }
  });
}

TEST_P(AutogradCollectives, AreExactWithWholeNumbers) {
  run([](const GroupPointer& group) {
    const int ranks = group->size();
    torch::Tensor sum = torch::zeros({3, 2}), gradients = torch::zeros({3, 2});
    for (int rank = 0; rank < ranks; ++rank) {
      sum += whole_numbers({3, 2}, rank);
      gradients += whole_numbers({3, 2}, 100 + rank);
    }
    auto input = whole_numbers({3, 2}, group->rank()).requires_grad_(true);
    const auto before = input.detach().clone();
    const auto output = autograd::all_reduce(input, group);
    EXPECT_TRUE(torch::equal(output, sum));
    (output * whole_numbers({3, 2}, 100 + group->rank())).sum().backward();
    EXPECT_TRUE(torch::equal(input.grad(), gradients)) << input.grad();
    EXPECT_TRUE(torch::equal(input, before));
    const auto gathered = autograd::all_gather(before, group, 1);
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_TRUE(torch::equal(gathered.narrow(1, 2 * rank, 2), whole_numbers({3, 2}, rank)));
    }
    const auto rows = whole_numbers({2 * ranks, 3 * ranks}, group->rank());
    const auto exchanged = autograd::all_to_all(rows, group, 0, 1);
    for (int rank = 0; rank < ranks; ++rank) {
      const auto theirs =
          whole_numbers({2 * ranks, 3 * ranks}, rank).narrow(0, 2 * group->rank(), 2);
      EXPECT_TRUE(torch::equal(exchanged.narrow(1, 3 * ranks * rank, 3 * ranks), theirs));
    }
    EXPECT_TRUE(torch::equal(autograd::all_to_all(exchanged, group, 1, 0), rows));
  });
}

TEST_P(AutogradCollectives, ShareTheGradientOfAMaximumAmongAllThatHaveIt) {
  run([](const GroupPointer& group) {
    // The first number is the same on all ranks, the second is largest on the last one.
    auto input = torch::tensor({5.0F, static_cast<float>(group->rank())}).requires_grad_(true);
    const auto output = autograd::all_reduce(input, group, ReduceOp::Max);
    (output * 12).sum().backward();
    const auto ranks = static_cast<float>(group->size());
    EXPECT_EQ(input.grad()[0].item<float>(), 12 * ranks / ranks);
    EXPECT_EQ(input.grad()[1].item<float>(), group->rank() + 1 == group->size() ? 12 * ranks : 0);
  });
}

TEST_P(AutogradCollectives, CanBeDifferentiatedTwice) {
  run([](const GroupPointer& group) {
    const auto ranks = static_cast<float>(group->size());
    auto input = torch::full({2}, 1.0F + static_cast<float>(group->rank())).requires_grad_(true);
    const auto sum = ranks * (ranks + 1) / 2;
    const auto output = autograd::all_reduce(input, group);
    // The sum of losses is W y^3, its gradient 3 W y^2; the sum of those of all ranks 3 W^2 y^2.
    const auto gradient = torch::autograd::grad({output.pow(3).sum()}, {input}, {}, std::nullopt,
                                                /*create_graph=*/true)[0];
    EXPECT_EQ(gradient[0].item<float>(), 3 * ranks * sum * sum);
    gradient.sum().backward();
    EXPECT_EQ(input.grad()[0].item<float>(), 6 * ranks * ranks * sum);
  });
}

TEST_P(AutogradCollectives, RefuseWhatHasNoDerivativeOrCannotBeShared) {
  run([](const GroupPointer& group) {
    const auto x = torch::ones({3, 5});
    expect_refusal(
        [&] { (void)autograd::all_reduce(x, group, ReduceOp::Product); },
        "autograd::all_reduce: Product has no derivative here; use Sum, Avg, Max or Min");
    expect_refusal([&] { (void)autograd::reduce_scatter(x, group, ReduceOp::Max); },
                   "autograd::reduce_scatter: Max has no derivative here");
    expect_refusal([&] { (void)autograd::all_reduce(x, nullptr); }, "the process group is null");
    expect_refusal([&] { (void)autograd::all_reduce({}, group); }, "the tensor is undefined");
    expect_refusal([&] { (void)autograd::all_gather(torch::tensor(1.0), group); },
                   "a tensor without dimensions cannot be cut or joined");
    if (group->size() > 1) {
      expect_refusal(
          [&] { (void)autograd::reduce_scatter(torch::ones({3 * group->size() + 1}), group); },
          "equally; its size must be a multiple of " + std::to_string(group->size()));
    }
  });
}

}  // namespace
}  // namespace lockstep::testing

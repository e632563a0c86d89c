// SPDX-License-Identifier: BSD-3-Clause
#include <cmath>

#include "tensor_ranks.h"

namespace lockstep::testing {
namespace {

namespace regions = lockstep::tensor_parallel;

class Regions : public TensorRanks {};
INSTANTIATE_TEST_SUITE_P(Ranks, Regions, ::testing::Values(1, 2, 3, 4));

using Forward = std::function<torch::Tensor(const torch::Tensor&, const GroupPointer&)>;

struct RegionCase {
  std::string name;
  bool is_sharded;  // each rank has another leaf; else all have the same one
  std::vector<std::int64_t> shape;
  Forward forward;  // the result is the same on all ranks
};

torch::Tensor factor_of_rank(const torch::Tensor& like, const GroupPointer& group) {
  return fractions(like.sizes(), 50 + group->rank());
}

/// Each pair of functions around something that differs between ranks.
std::vector<RegionCase> region_cases(int ranks) {
  const std::int64_t w = ranks;
  return {
      {"copy_to, reduce_from",
       false,
       {2, 3},
       [](const auto& x, const auto& group) {
         const auto inside = regions::copy_to(x, group);
         return regions::reduce_from((inside * factor_of_rank(x, group)).tanh(), group);
       }},
      {"scatter_to, gather_from",
       false,
       {2, 3 * w},
       [](const auto& x, const auto& group) {
         const auto part = regions::scatter_to(x, group);
         return regions::gather_from((part * factor_of_rank(part, group)).t().tanh().t(), group);
       }},
      {"scatter_to, gather_from, first dimension",
       false,
       {2 * w, 3},
       [](const auto& x, const auto& group) {
         const auto part = regions::scatter_to(x, group, 0);
         return regions::gather_from(part.tanh() * factor_of_rank(part, group), group, 0);
       }},
      {"gather_from_sequence, reduce_scatter_to_sequence",
       true,
       {2, 3},
       [](const auto& x, const auto& group) {
         const auto all = regions::gather_from_sequence(x, group);
         const auto inside = (all * factor_of_rank(all, group)).tanh();
         return regions::gather_from(regions::reduce_scatter_to_sequence(inside, group), group, 0);
       }},
      {"the same, second dimension",
       true,
       {2, 3},
       [](const auto& x, const auto& group) {
         const auto all = regions::gather_from_sequence(x.t().contiguous().t(), group, 1);
         const auto inside = (all * factor_of_rank(all, group)).tanh();
         return regions::gather_from(regions::reduce_scatter_to_sequence(inside, group, 1), group);
       }},
      {"all_to_all",
       true,
       {2, 3 * w},
       [](const auto& x, const auto& group) {
         const auto heads = regions::all_to_all(x, group, 1, 0);
         const auto inside = (heads * factor_of_rank(heads, group)).tanh();
         return regions::gather_from(regions::all_to_all(inside, group, 0, 1), group, 0);
       }},
      {"a parameter that is used on parts of the sequence",
       false,
       {3},
       [](const auto& parameter, const auto& group) {
         const auto part = fractions({2, 3}, 70 + group->rank());
         const auto scaled = (part * regions::copy_to(parameter, group)).tanh();
         return regions::gather_from(scaled, group, 0);
       }},
  };
}

/// The one loss, which all ranks compute; its gradient is transposed, and in part expanded.
torch::Tensor common_loss(const torch::Tensor& output) {
  const auto turned = output.t();
  return (turned * fractions(turned.sizes(), 5)).sum() + turned.square().sum() + output.sum();
}

void expect_derivative_of_common_loss(const RegionCase& test, const GroupPointer& group) {
  constexpr double kMove = 1e-5;
  constexpr double kSlack = 1e-7;
  const auto values = fractions(test.shape, test.is_sharded ? 90 + group->rank() : 90);
  const auto leaf = values.clone().requires_grad_(true);
  common_loss(test.forward(leaf, group)).backward();
  for (int rank = 0; rank < (test.is_sharded ? group->size() : 1); ++rank) {
    for (std::int64_t i = 0; i < values.numel(); ++i) {
      double losses[2];
      for (const int sign : {0, 1}) {
        const torch::NoGradGuard no_grad;
        auto moved = values.clone();
        const bool is_mine = !test.is_sharded || rank == group->rank();
        if (is_mine) moved.view(-1)[i] += sign == 0 ? kMove : -kMove;
        losses[sign] = common_loss(test.forward(moved, group)).item<double>();
      }
      if (test.is_sharded && rank != group->rank()) continue;
      const double slope = (losses[0] - losses[1]) / (2 * kMove);
      EXPECT_NEAR(leaf.grad().reshape(-1)[i].item<double>(), slope, kSlack * (1 + std::abs(slope)))
          << "element " << i;
    }
  }
}

TEST_P(Regions, HaveTheDerivativeOfTheOneLoss) {
  run([](const GroupPointer& group) {
    for (const auto& test : region_cases(group->size())) {
      SCOPED_TRACE(test.name);
      expect_derivative_of_common_loss(test, group);
    }
  });
}

// Where the one convention is meant, the other one is wrong by the number of ranks.
TEST_P(Regions, DifferFromAutogradsByTheNumberOfRanks) {
  run([](const GroupPointer& group) {
    auto one = whole_numbers({2, 3}, group->rank()).requires_grad_(true);
    auto other = whole_numbers({2, 3}, group->rank()).requires_grad_(true);
    const auto weights = whole_numbers({2, 3}, 9);
    const auto replicated = regions::reduce_from(one, group);
    const auto added = autograd::all_reduce(other, group);
    EXPECT_TRUE(torch::equal(replicated, added));
    (replicated * weights).sum().backward();
    (added * weights).sum().backward();
    EXPECT_TRUE(torch::equal(one.grad(), weights));
    EXPECT_TRUE(torch::equal(other.grad(), weights * group->size()));
  });
}

TEST_P(Regions, CanBeDifferentiatedTwice) {
  run([](const GroupPointer& group) {
    // z = sum over ranks of (rank + 1) x; loss = z^3, the same everywhere.
    const auto ranks = static_cast<float>(group->size());
    const auto own = static_cast<float>(group->rank() + 1);
    const auto sum = ranks * (ranks + 1) / 2;
    auto x = torch::full({2}, 2.0F).requires_grad_(true);
    const auto z = regions::reduce_from(regions::copy_to(x, group) * own, group);
    const auto gradient = torch::autograd::grad({z.pow(3).sum()}, {x}, {}, std::nullopt,
                                                /*create_graph=*/true)[0];
    EXPECT_EQ(gradient[0].item<float>(), 3 * 4 * sum * sum * sum);
    gradient.sum().backward();
    EXPECT_EQ(x.grad()[0].item<float>(), 6 * 2 * sum * sum * sum);
  });
}

TEST_P(Regions, LeaveInputsAndGradientsAsTheyAre) {
  run([](const GroupPointer& group) {
    auto x = whole_numbers({2, 3}, 4).requires_grad_(true);
    const auto before = x.detach().clone();
    auto gradient = whole_numbers({3, 2}, 8).t();  // transposed in memory
    const auto kept = gradient.clone();
    regions::copy_to(x, group).backward(gradient);
    EXPECT_TRUE(torch::equal(gradient, kept));
    EXPECT_TRUE(torch::equal(x.grad(), kept * group->size()));
    (void)regions::reduce_from(x, group);
    EXPECT_TRUE(torch::equal(x, before));
  });
}

TEST_P(Regions, RefuseWhatCannotBeShared) {
  run([](const GroupPointer& group) {
    expect_refusal([&] { (void)regions::copy_to(torch::ones({2}), nullptr); },
                   "copy_to: the process group is null");
    expect_refusal([&] { (void)regions::reduce_from({}, group); },
                   "reduce_from: the tensor is undefined");
    if (group->size() == 1) return;
    const auto odd = torch::ones({2, 3 * group->size() + 1});
    std::string part = "scatter_to: ";
    part += std::to_string(group->size()) + " ranks cannot share dimension 1 of [2, ";
    expect_refusal([&] { (void)regions::scatter_to(odd, group); }, part);
    expect_refusal([&] { (void)regions::scatter_to(odd, group, 2); }, "Dimension out of range");
  });
}

}  // namespace
}  // namespace lockstep::testing

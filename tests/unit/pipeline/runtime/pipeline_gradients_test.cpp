// SPDX-License-Identifier: BSD-3-Clause
// Gradients of a pipeline against those of the same model in one process.
#include <gtest/gtest.h>
#include <lockstep/comm/mesh.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/pipeline/pipeline.h>

#include <tuple>

#include "staged_model.h"
#include "support/expected_errors.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using pipeline::Pipeline;
using pipeline::PipelineOptions;
using pipeline::Plan;

struct Way {
  const char* schedule;
  int stages_per_rank;
  int microbatches;  // a rank; 0: exactly 16
};

std::ostream& operator<<(std::ostream& out, const Way& way) {
  return out << way.schedule << '_' << way.stages_per_rank << '_' << way.microbatches;
}

constexpr Way kWays[] = {
    {"gpipe", 1, 1},       {"gpipe", 2, 2},       {"1f1b", 1, 2},
    {"1f1b", 1, 0},        {"interleaved", 2, 2}, {"zero_bubble", 1, 2},
    {"zero_bubble", 2, 2}, {"zbv", 2, 2},         {"zbv", 2, 0},
};

PipelineOptions options_for(const Way& way, int ranks) {
  return PipelineOptions()
      .microbatches(way.microbatches == 0 ? 16 : way.microbatches * ranks)
      .schedule(pipeline::schedule_named(way.schedule));
}

class PipelineGradients : public ::testing::TestWithParam<std::tuple<int, Way>> {
 protected:
  [[nodiscard]] int ranks() const { return std::get<0>(GetParam()); }
  [[nodiscard]] Way way() const { return std::get<1>(GetParam()); }

  void check(torch::ScalarType dtype, bool recomputes, int steps = 1) const {
    const auto options = options_for(way(), ranks());
    const auto m = options.microbatches();
    const auto data = make_tokens(2 * m);
    const auto target = make_classes(2 * m);
    const auto expected =
        train_unsplit(ranks() * way().stages_per_rank, m, dtype, data, target, steps);
    run_ranks_or_throw(ranks(), [&](const std::shared_ptr<ProcessGroup>& group) {
      const Plan plan = options.schedule().plan(ranks(), way().stages_per_rank, m);
      auto nets = make_stages(plan, group->rank(), dtype, recomputes);
      Pipeline pipeline(group, nets, options);
      ASSERT_EQ(pipeline.plan(), plan);
      std::vector<torch::Tensor> losses;
      for (int step = 0; step < steps; ++step) {
        for (auto& net : nets) net->zero_grad();
        losses = pipeline.step(data, target, token_loss);
      }
      ASSERT_EQ(losses.size(), pipeline.has_last_stage() ? static_cast<std::size_t>(m) : 0U);
      for (std::size_t i = 0; i < losses.size(); ++i) {
        EXPECT_TRUE(torch::equal(losses[i], expected.losses[i])) << i;
      }
      NamedGradients gradients;
      const auto& numbers = plan.stages_of(group->rank());
      for (std::size_t i = 0; i < nets.size(); ++i) {
        collect_gradients(gradients, numbers[i], nets[i]);
      }
      expect_gradients(expected.gradients, gradients);
      EXPECT_EQ(pipeline.statistics().peak_held,
                plan.simulate(pipeline::SimulationCosts())
                    .peak_held.at(static_cast<std::size_t>(group->rank())));
      pipeline.close();
      group->close();
    });
  }
};

INSTANTIATE_TEST_SUITE_P(Ways, PipelineGradients,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4),
                                            ::testing::ValuesIn(kWays)));

TEST_P(PipelineGradients, AreThoseOfTheUnsplitModelBitForBit) {
  check(torch::kFloat, false);
}
TEST_P(PipelineGradients, AreTheSameInBFloat16) {
  check(torch::kBFloat16, false);
}
TEST_P(PipelineGradients, AreTheSameWithRecomputationAndAgainInALaterStep) {
  check(torch::kFloat, true, 2);
}

class PipelineRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, PipelineRanks, ::testing::Values(1, 2, 3));

TEST_P(PipelineRanks, WeighMicrobatchesOfDifferentSizesByTheirRows) {
  const int ranks = GetParam();
  const auto data = make_tokens(4 * 3 + 2);
  const auto target = make_classes(4 * 3 + 2);
  // Parts of 4, 4, 3 and 3 rows; the mean over the batch is that of one microbatch with all rows.
  const auto expected = train_unsplit(ranks, 1, torch::kFloat, data, target);
  run_ranks_or_throw(ranks, [&](const std::shared_ptr<ProcessGroup>& group) {
    const auto options = PipelineOptions().microbatches(4);
    const Plan plan = options.schedule().plan(ranks, 1, 4);
    auto nets = make_stages(plan, group->rank());
    Pipeline pipeline(group, nets, options);
    static_cast<void>(pipeline.step(data, target, token_loss));
    NamedGradients gradients;
    collect_gradients(gradients, group->rank(), nets.front());
    for (const auto& [name, gradient] : gradients) {
      // Sums in another order: a few units in the last place of the largest element.
      EXPECT_TRUE(torch::allclose(gradient, expected.gradients.at(name), 1e-4, 1e-6)) << name;
    }
    group->close();
  });
}

TEST_P(PipelineRanks, AddGradientsUpWithoutScaling) {
  const int ranks = GetParam();
  const auto data = make_tokens(8);
  const auto target = make_classes(8);
  auto expected = train_unsplit(ranks, 4, torch::kFloat, data, target);
  run_ranks_or_throw(ranks, [&](const std::shared_ptr<ProcessGroup>& group) {
    const auto options = PipelineOptions().microbatches(4).scale_gradients(false);
    auto nets = make_stages(options.schedule().plan(ranks, 1, 4), group->rank());
    Pipeline pipeline(group, nets, options);
    static_cast<void>(pipeline.step(data, target, token_loss));
    NamedGradients gradients;
    collect_gradients(gradients, group->rank(), nets.front());
    for (auto& [name, gradient] : gradients) gradient.div_(4);
    expect_gradients(expected.gradients, gradients);
    group->close();
  });
}

TEST_P(PipelineRanks, EvaluateLikeTheUnsplitModel) {
  const int ranks = GetParam();
  for (const std::int64_t rows : {8, 3}) {  // more and fewer rows than microbatches
    const auto data = make_tokens(rows);
    std::vector<torch::Tensor> parts;
    {
      const torch::NoGradGuard no_grad;
      for (torch::Tensor x : torch::tensor_split(data, std::min<std::int64_t>(rows, 6), 0)) {
        for (int i = 0; i < 2 * ranks; ++i) x = ModelStage(i, 2 * ranks, torch::kFloat)(x);
        parts.push_back(x);
      }
    }
    const auto expected = torch::cat(parts, 0);
    run_ranks_or_throw(ranks, [&](const std::shared_ptr<ProcessGroup>& group) {
      const auto options =
          PipelineOptions().microbatches(6).schedule(pipeline::schedule_named("zbv"));
      auto nets = make_stages(options.schedule().plan(ranks, 2, 6), group->rank());
      Pipeline pipeline(group, nets, options);
      for (int i = 0; i < 2; ++i) {
        const auto output = pipeline.forward(data);
        ASSERT_EQ(output.defined(), pipeline.has_last_stage());
        if (output.defined()) {
          EXPECT_FALSE(output.requires_grad());
          EXPECT_TRUE(torch::equal(output, expected)) << output << expected;
        }
      }
      static_cast<void>(pipeline.step(make_tokens(6), make_classes(6), token_loss));
      group->close();
    });
  }
}

TEST(PipelineEvaluation, FollowsOrdersThatAreNotAscendingAndDoesNotCount) {
  const auto options = PipelineOptions().microbatches(3).schedule(
      pipeline::from_text("0F2,0F0,0F1,0B2,0B0,0B1\n1F2,1B2,1F0,1B0,1F1,1B1\n"));
  run_ranks_or_throw(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    Pipeline pipeline(group, ModelStage(group->rank(), 2, torch::kFloat), options);
    const auto train = [&] {
      static_cast<void>(pipeline.step(make_tokens(6), make_classes(6), token_loss));
    };
    train();
    train();  // in slots
    const auto before = pipeline.statistics();
    EXPECT_EQ(before.slots_filled, 3U);
    for (const std::int64_t rows : {1, 2, 3, 7}) {
      const auto output = pipeline.forward(make_tokens(rows));
      ASSERT_EQ(output.defined(), group->rank() == 1);
      if (output.defined()) {
        const torch::NoGradGuard no_grad;
        const auto expected =
            ModelStage(1, 2, torch::kFloat)(ModelStage(0, 2, torch::kFloat)(make_tokens(rows)));
        EXPECT_TRUE(torch::allclose(output, expected)) << rows;
      }
    }
    group->barrier();  // rank 1 has evaluated, and all slots are free again
    train();
    EXPECT_EQ(pipeline.statistics().sent_bytes * 2, before.sent_bytes * 3);
    EXPECT_EQ(pipeline.statistics().slots_filled, 6U);
    group->close();
  });
}

void check_ddp(const PipelineOptions& options, int stages_per_rank) {
  const auto m = options.microbatches();
  // One replica's share of the batch each; their gradients are added in the order of the replicas.
  // The numbers of microbatches are powers of two, so that undoing the division changes no bit.
  std::vector<Unsplit> of_replicas;
  for (int replica = 0; replica < 2; ++replica) {
    of_replicas.push_back(train_unsplit(2 * stages_per_rank, m, torch::kFloat,
                                        make_tokens(2 * m, replica), make_classes(2 * m, replica)));
  }
  NamedGradients expected;
  for (const auto& [name, gradient] : of_replicas[0].gradients) {
    expected[name] = (gradient * m + of_replicas[1].gradients.at(name) * m).div(2).div(m);
  }
  run_ranks_or_throw(4, [&](const std::shared_ptr<ProcessGroup>& group) {
    Mesh mesh(group, {{"stage", 2}, {"data", 2}});
    const auto& stages = mesh.group("stage");
    const Plan plan = options.schedule().plan(2, stages_per_rank, m);
    std::vector<DistributedDataParallel<ModelStage>> nets;
    for (const auto& net : make_stages(plan, stages->rank())) {
      nets.emplace_back(DistributedDataParallel<ModelStage>(net, mesh.group("data")));
    }
    Pipeline pipeline(stages, nets, options);
    for (int step = 0; step < 2; ++step) {
      for (auto& net : nets) net->zero_grad();
      static_cast<void>(pipeline.step(make_tokens(2 * m, mesh.index("data")),
                                      make_classes(2 * m, mesh.index("data")), token_loss));
      NamedGradients gradients;
      const auto& numbers = plan.stages_of(stages->rank());
      for (std::size_t i = 0; i < nets.size(); ++i) {
        EXPECT_EQ(nets[i]->statistics().steps, static_cast<std::uint64_t>(step + 1));
        collect_gradients(gradients, numbers[i], nets[i]);
      }
      expect_gradients(expected, gradients);
    }
    if (plan.has_split_backward()) {
      const auto number = plan.stages_of(stages->rank()).back();
      EXPECT_EQ(pipeline.statistics().times(pipeline::ActionKind::Backward, number).count, 2U);
    }
    pipeline.close();
    mesh.close();
    group->close();
  });
}

class PipelineWithDdp : public ::testing::TestWithParam<Way> {};
INSTANTIATE_TEST_SUITE_P(Ways, PipelineWithDdp,
                         ::testing::Values(Way{"gpipe", 1, 2}, Way{"1f1b", 1, 2},
                                           Way{"interleaved", 2, 2}, Way{"zero_bubble", 1, 4},
                                           Way{"zbv", 2, 4}));

TEST_P(PipelineWithDdp, AverageOverReplicasOnce) {
  check_ddp(options_for(GetParam(), 2), GetParam().stages_per_rank);
}

TEST(PipelineWithDdpOrders, AverageInTheLastBackwardOfAnyOrder) {
  for (const char* text : {"0F0,0F1,0I0,0I1,0W1,0W0\n1F0,1I0,1F1,1I1,1W1,1W0\n",
                           "0F0,0F1,0I1,0I0,0W0,0W1\n1F0,1F1,1I1,1I0,1W0,1W1\n"}) {
    check_ddp(PipelineOptions().microbatches(2).schedule(pipeline::from_text(text)), 1);
  }
}

}  // namespace
}  // namespace lockstep::testing

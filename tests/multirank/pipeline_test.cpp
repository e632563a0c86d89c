// SPDX-License-Identifier: BSD-3-Clause
// A pipeline whose ranks are processes, over each backend that passes messages.
#include <gtest/gtest.h>
#include <lockstep/comm/init.h>
#include <lockstep/pipeline/pipeline.h>
#include <torch/torch.h>

#include "unit/pipeline/runtime/staged_model.h"

namespace lockstep::testing {
namespace {

using pipeline::Pipeline;
using pipeline::PipelineOptions;

class PipelineProcesses : public ::testing::TestWithParam<Backend> {};

TEST_P(PipelineProcesses, TrainLikeTheUnsplitModel) {
  const auto group = init_process_group(
      ProcessGroupOptions().backend(GetParam()).timeout(std::chrono::minutes(1)));
  for (const char* schedule : {"1f1b", "zbv"}) {
    const std::int64_t per_rank = schedule == std::string("zbv") ? 2 : 1;
    const auto options =
        PipelineOptions().microbatches(6).schedule(pipeline::schedule_named(schedule));
    const auto data = make_tokens(12);
    const auto target = make_classes(12);
    const auto expected = train_unsplit(group->size() * per_rank, 6, torch::kFloat, data, target);
    const auto plan = options.schedule().plan(group->size(), per_rank, 6);
    auto nets = make_stages(plan, group->rank());
    Pipeline pipeline(group, nets, options);
    for (int step = 0; step < 3; ++step) {
      for (auto& net : nets) net->zero_grad();
      static_cast<void>(pipeline.step(data, target, token_loss));
    }
    NamedGradients gradients;
    for (std::size_t i = 0; i < nets.size(); ++i) {
      collect_gradients(gradients, plan.stages_of(group->rank())[i], nets[i]);
    }
    expect_gradients(expected.gradients, gradients);
    const bool has_slots = group->backend() == Backend::SharedMemory;
    EXPECT_EQ(pipeline.statistics().slots_filled > 0, has_slots);
    pipeline.close();
  }
  group->close();
}

constexpr Backend kBackends[] = {Backend::Auto,
#ifdef LOCKSTEP_TEST_MPI
                                 Backend::Mpi,
#endif
#ifdef LOCKSTEP_TEST_GLOO
                                 Backend::Gloo
#endif
};
INSTANTIATE_TEST_SUITE_P(Backends, PipelineProcesses, ::testing::ValuesIn(kBackends),
                         [](const auto& one) { return std::string(to_string(one.param)); });

}  // namespace
}  // namespace lockstep::testing

// SPDX-License-Identifier: BSD-3-Clause
// Options that do not fit, and ranks that fail in a step.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>
#include <lockstep/pipeline/pipeline.h>

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "staged_model.h"
#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/some_limit.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using pipeline::Pipeline;
using pipeline::PipelineOptions;
using pipeline::Stage;

class PipelineFailures : public ::testing::TestWithParam<int> {
 protected:
  [[nodiscard]] static int ranks() { return GetParam(); }
  [[nodiscard]] static int last() { return GetParam() - 1; }

  /// All ranks get an error with this text, from construction.
  template <typename Change>
  static void expect_refused(const std::string& text, const Change& change) {
    run_ranks_or_throw(ranks(), [&](const std::shared_ptr<ProcessGroup>& group) {
      auto options = PipelineOptions().microbatches(8);
      std::vector<ModelStage> nets{ModelStage(0, 1, torch::kFloat)};
      change(group->rank(), options, nets);
      expect_refusal([&] { Pipeline(group, nets, options); }, text);
      // The group is as good as before.
      group->barrier();
      group->close();
    });
  }

  /// Runs a step in which something fails on rank `culprit`. Each rank then refuses another step.
  static std::vector<std::exception_ptr> run_broken(
      const char* schedule, const std::function<Stage(int rank, const ModelStage& net)>& make,
      const std::function<torch::Tensor(int rank)>& data, const std::function<void()>& in_loss) {
    return run_ranks(ranks(), [&](const std::shared_ptr<ProcessGroup>& group) {
      const ModelStage net(group->rank(), ranks(), torch::kFloat);
      Pipeline pipeline(
          group, make(group->rank(), net),
          PipelineOptions().microbatches(8).schedule(pipeline::schedule_named(schedule)));
      const auto step = [&] {
        static_cast<void>(pipeline.step(data(group->rank()), make_classes(8),
                                        [&](const torch::Tensor& x, const torch::Tensor& y) {
                                          in_loss();
                                          return token_loss(x, y);
                                        }));
      };
      try {
        step();
      } catch (...) {
        expect_refusal(step, "has failed before");
        expect_refusal([&] { static_cast<void>(pipeline.forward(make_tokens(8))); },
                       "has failed before");
        throw;
      }
    });
  }
  static Stage plain(int /*rank*/, const ModelStage& net) { return Stage(net); }
  static torch::Tensor all_rows(int /*rank*/) { return make_tokens(8); }

  /// The culprit has its own error, and the others one with this text.
  template <typename Own>
  static void expect_errors(const std::vector<std::exception_ptr>& errors, int culprit,
                            const std::string& own, const std::string& of_others) {
    for (int rank = 0; rank < ranks(); ++rank) {
      const auto& error = errors[static_cast<std::size_t>(rank)];
      if (rank == culprit) {
        expect_error<Own>(error, own);
      } else {
        expect_error<PeerLostError>(error, of_others);
        expect_error<PeerLostError>(error, own);
      }
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, PipelineFailures, ::testing::Values(1, 2, 3));

TEST_P(PipelineFailures, OptionsThatNoScheduleTakesAreRefusedOnAllRanks) {
  expect_refused("microbatch",
                 [](int, PipelineOptions& options, auto&) { options.microbatches(0); });
  if (ranks() > 1) {
    expect_refused("microbatch", [](int, PipelineOptions& options, auto&) {
      options.microbatches(ranks() - 1);  // 1F1B needs as many as there are ranks
    });
  }
  expect_refused("has no stage", [](int, PipelineOptions&, auto& nets) { nets.clear(); });
}

TEST_P(PipelineFailures, OptionsThatDifferAreRefusedOnAllRanks) {
  if (ranks() == 1) GTEST_SKIP() << "one rank does not differ from itself";
  expect_refused("microbatches of rank 0 and of rank 1 differ: 8 and 9",
                 [](int rank, PipelineOptions& options, auto&) {
                   if (rank == 1) options.microbatches(9);
                 });
  expect_refused("the schedule's plan of rank 0", [](int rank, PipelineOptions& options, auto&) {
    options.schedule(rank == last() ? pipeline::gpipe() : pipeline::zero_bubble());
  });
  expect_refused("stages of rank 0 and of rank " + std::to_string(last()) + " differ: 1 and 2",
                 [](int rank, PipelineOptions& options, auto& nets) {
                   options.schedule(pipeline::gpipe());
                   if (rank == last()) nets.push_back(nets.front());
                 });
  expect_refused("scale_gradients", [](int rank, PipelineOptions& options, auto&) {
    options.scale_gradients(rank == 0);
  });
}

TEST_P(PipelineFailures, ARankThatRefusesStopsTheOthersAtConstruction) {
  if (ranks() == 1) GTEST_SKIP() << "there are no others";
  expect_refused("", [](int rank, PipelineOptions& options, auto&) {
    if (rank == 1) options.microbatches(-1);
  });
}

TEST_P(PipelineFailures, AnExceptionOfAStageNamesItOnAllRanks) {
  for (const char* schedule : {"gpipe", "1f1b", "zero_bubble"}) {
    for (int culprit = 0; culprit < ranks(); ++culprit) {
      int calls = 0;
      const auto make = [&](int rank, const ModelStage& net) {
        if (rank != culprit) return Stage(net);
        return Stage(
            [&calls, own = ModelStage(net)](const torch::Tensor& x) mutable {
              if (++calls == 4) throw std::runtime_error("bad luck");
              return own(x);
            },
            net);
      };
      const auto errors = run_broken(schedule, make, all_rows, [] {});
      const std::string number = std::to_string(culprit);
      expect_errors<std::runtime_error>(errors, culprit, "bad luck",
                                        "in " + number + "F3 (stage " + number);
    }
  }
}

TEST_P(PipelineFailures, AnExceptionOfLibTorchInAStageSaysWhere) {
  const auto make = [](int rank, const ModelStage& net) {
    if (rank != last()) return Stage(net);
    return Stage([](const torch::Tensor& x) { return x.view({1000003}); }, net);
  };
  const auto errors = run_broken("1f1b", make, all_rows, [] {});
  expect_errors<c10::Error>(errors, last(), "1000003", "(stage " + std::to_string(last()));
  EXPECT_NE(text_of(errors[static_cast<std::size_t>(last())]).find("F0 (stage"), std::string::npos);
}

TEST_P(PipelineFailures, AnExceptionOfTheLossStopsAllRanks) {
  int calls = 0;
  const auto errors = run_broken("1f1b", plain, all_rows, [&calls] {
    if (++calls == 3) throw std::runtime_error("no loss");
  });
  expect_errors<std::runtime_error>(errors, last(), "no loss", "(stage " + std::to_string(last()));
}

TEST_P(PipelineFailures, ABatchThatCannotBeCutStopsAllRanks) {
  const auto errors = run_broken(
      "1f1b", plain, [](int rank) { return make_tokens(rank == 0 ? 7 : 8); }, [] {});
  expect_errors<c10::Error>(errors, 0, "7 rows cannot be cut into 8 microbatches", "rank 0");
}

TEST_P(PipelineFailures, AnExceptionInABackwardStopsAllRanks) {
  for (const char* schedule : {"gpipe", "1f1b"}) {
    for (int culprit = 0; culprit < ranks(); ++culprit) {
      const auto errors = run_ranks(ranks(), [&](const std::shared_ptr<ProcessGroup>& group) {
        const ModelStage net(group->rank(), ranks(), torch::kFloat);
        int calls = 0;
        const auto stage = [&](const torch::Tensor& x) {
          const auto y = ModelStage(net)(x);
          y.register_hook([&](const torch::Tensor& gradient) {
            if (group->rank() == culprit && ++calls == 4) throw std::runtime_error("bad luck");
            return gradient;
          });
          return y;
        };
        Pipeline pipeline(
            group, {Stage(stage, net)},
            PipelineOptions().microbatches(8).schedule(pipeline::schedule_named(schedule)));
        // Ranks that have done their part may see it in their next step.
        for (int step = 0; step < 3; ++step) {
          static_cast<void>(pipeline.step(make_tokens(8), make_classes(8), token_loss));
        }
      });
      const std::string number = std::to_string(culprit);
      expect_errors<std::runtime_error>(errors, culprit, "bad luck",
                                        "in " + number + "B3 (stage " + number);
    }
  }
}

TEST_P(PipelineFailures, AnExceptionOfARuleStopsAllRanksAtConstruction) {
  const auto errors = run_ranks(ranks(), [&](const std::shared_ptr<ProcessGroup>& group) {
    const auto rule = [&](std::int64_t count, std::int64_t stages, std::int64_t microbatches) {
      if (group->rank() == last()) throw std::runtime_error("no plan");
      return pipeline::gpipe().plan(count, stages, microbatches);
    };
    Pipeline(group, ModelStage(0, 1, torch::kFloat),
             PipelineOptions().microbatches(4).schedule({"own", rule}));
  });
  expect_error<std::runtime_error>(errors.back(), "no plan");
  for (int rank = 0; rank < last(); ++rank) {
    expect_error<c10::Error>(errors[static_cast<std::size_t>(rank)],
                             "rank " + std::to_string(last()) + " refused");
  }
}

TEST(PipelineTimeout, NamesTheRankThatDoesNotComeAndItsStage) {
  // The group's limit is also that of the meeting, and of the construction of the pipelines.
  const auto attempt = [](std::chrono::milliseconds limit) -> std::string {
    Signal has_failed("until rank 0 had failed");  // until then, rank 1 is there, but in no call
    const auto make_group = [&](const LaunchEnvironment& environment) {
      return init_process_group(ProcessGroupOptions()
                                    .backend(Backend::SharedMemory)
                                    .timeout(limit)
                                    .environment(environment));
    };
    const auto errors = run_groups(2, make_group, [&](const std::shared_ptr<ProcessGroup>& group) {
      std::optional<SignalAtEnd> end;  // of rank 0, however it ends
      if (group->rank() == 0) end.emplace(has_failed);
      Pipeline pipeline(group, ModelStage(group->rank(), 2, torch::kFloat),
                        PipelineOptions().microbatches(8).activation_slots(false));
      if (group->rank() == 1) return has_failed.wait();
      static_cast<void>(pipeline.step(make_tokens(8), make_classes(8), token_loss));
    });
    try {
      if (errors[0]) std::rethrow_exception(errors[0]);
    } catch (const TimeoutError& error) {
      if (std::string(error.what()).find("rank 1 has stage 1") != std::string::npos) return "";
    } catch (const std::exception&) {  // its text follows
    }
    return "rank 0: " + text_of(errors[0]);
  };
  expect_with_some_limit(attempt, std::chrono::seconds(2));
}

TEST_P(PipelineFailures, ARankThatLeavesIsNamedWithItsStage) {
  if (ranks() == 1) GTEST_SKIP() << "there are no others";
  const auto errors = run_ranks(ranks(), [&](const std::shared_ptr<ProcessGroup>& group) {
    const ModelStage net(group->rank(), ranks(), torch::kFloat);
    Pipeline pipeline(group, net, PipelineOptions().microbatches(8));
    static_cast<void>(pipeline.step(make_tokens(8), make_classes(8), token_loss));
    if (group->rank() == 1) return;
    static_cast<void>(pipeline.step(make_tokens(8), make_classes(8), token_loss));
  });
  expect_error<PeerLostError>(errors[0], "rank 1 has stage 1");
}

TEST_P(PipelineFailures, ClosedPipelinesRefuseSteps) {
  run_ranks_or_throw(ranks(), [&](const std::shared_ptr<ProcessGroup>& group) {
    Pipeline pipeline(group, ModelStage(group->rank(), ranks(), torch::kFloat),
                      PipelineOptions().microbatches(8));
    pipeline.close();
    pipeline.close();
    expect_refusal(
        [&] { static_cast<void>(pipeline.step(make_tokens(8), make_classes(8), token_loss)); },
        "closed");
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing

// SPDX-License-Identifier: BSD-3-Clause
// The state of hooks for checkpoints, with ranks as threads.
#include <gtest/gtest.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/int8_error_feedback.h>
#include <lockstep/parallel/hooks/post_local_sgd.h>
#include <lockstep/parallel/hooks/power_sgd.h>

#include <functional>
#include <string>
#include <vector>

#include "support/expected_errors.h"
#include "support/hook_buckets.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;
using hooks::BatchedPowerSgd;
using hooks::HookState;
using hooks::Int8ErrorFeedback;
using hooks::ParametersByName;
using hooks::PowerSgd;

class HookStates : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, HookStates, ::testing::Values(1, 2, 3));

hooks::PowerSgdOptions eager_rank(std::int64_t rank) {
  return hooks::PowerSgdOptions()
      .start_iteration(1)
      .min_compression_rate(1e-3)
      .matrix_approximation_rank(rank);
}

/// A bucket of parameters "a" and "b.c", and a hook of it.
template <class Hook>
struct Hooked {
  explicit Hooked(Hook its_hook, at::ScalarType dtype = torch::kFloat)
      : hook(its_hook), bucket(make_parameters({{12, 10}, {7}}), dtype) {}

  /// The averages of some steps, one behind the other.
  torch::Tensor steps(ProcessGroup& group, int begin, int end) {
    std::vector<torch::Tensor> all{torch::zeros({1})};
    for (int step = begin; step < end; ++step) {
      for (const auto& average : bucket.reduce(
               group, hook, {wave({12, 10}, group.rank(), step), wave({7}, group.rank(), step)})) {
        all.push_back(average.flatten().to(torch::kFloat));
      }
    }
    return torch::cat(all);
  }
  [[nodiscard]] ParametersByName names() const {
    return {{"a", bucket.parameters[0]}, {"b.c", bucket.parameters[1]}};
  }
  [[nodiscard]] HookState state() const { return hook.state(names()); }
  void load(const HookState& state) { hook.load_state(state, names()); }

  Hook hook;
  HandMadeBucket bucket;
};

void expect_same_state(const HookState& a, const HookState& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) {
    ASSERT_TRUE(b.contains(name)) << name;
    EXPECT_TRUE(tensor.equal(b.at(name))) << name;
  }
}

/// The state of a copy of `from`, so that neither hook sees the other's tensors change.
HookState copy_of(const HookState& from) {
  HookState copy;
  for (const auto& [name, tensor] : from) copy.emplace(name, tensor.clone());
  return copy;
}

template <class Hook, class Options>
void expect_round_trip(const Group& group, const Options& options) {
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
    for (const int saved_after : {0, 1, 2, 5}) {
      Hooked<Hook> whole(Hook(options), dtype);
      static_cast<void>(whole.steps(*group, 0, saved_after));
      const auto state = copy_of(whole.state());
      const auto expected = whole.steps(*group, saved_after, saved_after + 4);
      Hooked<Hook> other(Hook(options), dtype);
      static_cast<void>(other.steps(*group, 7, 9));  // what it had is forgotten
      other.load(state);
      expect_same_state(other.state(), state);
      EXPECT_TRUE(other.steps(*group, saved_after, saved_after + 4).equal(expected))
          << dtype << ", saved after " << saved_after;
      expect_same_state(other.state(), whole.state());
    }
  }
}

TEST_P(HookStates, GoOnToTheBit) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const bool is_warm : {true, false}) {
      for (const bool has_errors : {true, false}) {
        const auto options = eager_rank(2).warm_start(is_warm).use_error_feedback(has_errors);
        expect_round_trip<PowerSgd>(group, options);
        expect_round_trip<BatchedPowerSgd>(group, options);
      }
    }
    expect_round_trip<Int8ErrorFeedback>(group, hooks::Int8ErrorFeedbackOptions());
    expect_round_trip<Int8ErrorFeedback>(
        group, hooks::Int8ErrorFeedbackOptions().use_error_feedback(false));
    group->close();
  });
}

// Columns that depend on others are replaced by random ones, which so belong to the state.
TEST_P(HookStates, GoOnWithTheRandomColumns) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto expect_same = [&](auto make) {
      auto whole = make();
      auto other = make();
      const auto narrow = torch::outer(wave({12}, group->rank()), wave({10}, 3));
      for (int step = 0; step < 3; ++step) {
        static_cast<void>(whole.bucket.reduce(*group, whole.hook, {narrow, torch::zeros({7})}));
      }
      other.load(copy_of(whole.state()));
      EXPECT_TRUE(other.steps(*group, 0, 3).equal(whole.steps(*group, 0, 3)));
    };
    expect_same([] { return Hooked<PowerSgd>(PowerSgd(eager_rank(3))); });
    expect_same([] { return Hooked<BatchedPowerSgd>(BatchedPowerSgd(eager_rank(3))); });
    group->close();
  });
}

TEST_P(HookStates, KeepWhatAFrozenParameterHasStillToSend) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Hooked<PowerSgd> whole{PowerSgd(eager_rank(1))};
    static_cast<void>(whole.steps(*group, 0, 3));
    // "a" is frozen: its bucket comes no more.
    HandMadeBucket other(make_parameters({{9, 9}}), torch::kFloat);
    const auto own = wave({9, 9}, group->rank());
    static_cast<void>(other.reduce(*group, whole.hook, {own}));
    auto names = whole.names();
    names.emplace("d", other.parameters[0]);
    const auto state = copy_of(whole.hook.state(names));
    EXPECT_TRUE(state.at("error.a").equal(whole.hook.error_of(whole.bucket.parameters[0])));
    EXPECT_TRUE(state.contains("error.d"));

    Hooked<PowerSgd> loaded{PowerSgd(eager_rank(1))};
    HandMadeBucket third(make_parameters({{9, 9}}), torch::kFloat);
    auto loaded_names = loaded.names();
    loaded_names.emplace("d", third.parameters[0]);
    loaded.hook.load_state(state, loaded_names);
    EXPECT_TRUE(third.reduce(*group, loaded.hook, {own})[0].equal(
        other.reduce(*group, whole.hook, {own})[0]));
    EXPECT_TRUE(loaded.steps(*group, 4, 6).equal(whole.steps(*group, 4, 6))) << "thawed";
    group->close();
  });
}

TEST_P(HookStates, DropErrorsWithAnotherNumberOfRanks) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Hooked<BatchedPowerSgd> whole{BatchedPowerSgd(eager_rank(2))};
    static_cast<void>(whole.steps(*group, 0, 3));
    const auto state = copy_of(whole.state());
    Hooked<BatchedPowerSgd> other{BatchedPowerSgd(eager_rank(2))};
    other.hook.adapt_state(state, other.names(), group->rank())();
    auto rest = state;
    EXPECT_EQ(rest.erase("error.a") + rest.erase("error.b.c"), 2U);
    expect_same_state(other.state(), rest);
    group->close();
  });
}

/// A state of `Hook` after some steps of one rank.
template <class Hook, class Options>
HookState some_state(const Options& options) {
  HookState state;
  run_ranks_or_throw(1, [&](const Group& group) {
    Hooked<Hook> hooked{Hook(options)};
    static_cast<void>(hooked.steps(*group, 0, 3));
    state = copy_of(hooked.state());
    group->close();
  });
  return state;
}

/// `change` makes a state that is refused with `reason`, and leaves the hook as it was.
template <class Hook, class Options>
void expect_refused(const Options& options, const HookState& state,
                    const std::function<void(HookState&)>& change, const std::string& reason) {
  Hooked<Hook> hooked{Hook(options)};
  hooked.load(state);
  auto changed = copy_of(state);
  change(changed);
  expect_refusal([&] { hooked.load(changed); }, reason);
  expect_same_state(hooked.state(), state);
}

TEST(HookStatesOfPowerSgd, AreCheckedBeforeAnythingChanges) {
  const auto state = some_state<PowerSgd>(eager_rank(2));
  const auto refuse = [&](const std::function<void(HookState&)>& change,
                          const std::string& reason) {
    expect_refused<PowerSgd>(eager_rank(2), state, change, reason);
  };
  refuse([](auto& s) { s.erase("steps"); }, "no 'steps'");
  refuse([](auto& s) { s.erase("generator"); }, "no 'generator'");
  refuse([](auto& s) { s.erase("q.a"); }, "no 'q.a'");
  refuse([](auto& s) { s.erase("random.a"); }, "no 'random.a'");
  refuse([](auto& s) { s.erase("error.a"); }, "a factor of 'a', and no error");
  refuse([](auto& s) { s.erase("q.a"), s.erase("random.a"); }, "an error of 'a', and no factor");
  refuse([](auto& s) { s["error.b"] = s["error.a"]; }, "'error.b', which belongs to no parameter");
  refuse([](auto& s) { s["error.a"] = torch::zeros({10, 12}); }, "'error.a' of the state is Float");
  refuse([](auto& s) { s["error.a"] = torch::zeros({12, 10}, torch::kHalf); }, "must be Float or");
  refuse([](auto& s) { s["q.a"] = torch::zeros({9, 2}); }, "'q.a' of the state is Float of shape");
  refuse([](auto& s) { s["q.a"] = s["q.a"].to(torch::kDouble); }, "'q.a' of the state is Double");
  refuse([](auto& s) { s["random.a"] = torch::zeros({10, 1}); }, "of shape [10, 2]");
  refuse([](auto& s) { s["steps"] = torch::full({}, -1, torch::kLong); }, "must not be negative");
  refuse([](auto& s) { s["steps"] = torch::zeros({2}, torch::kLong); }, "must be one Long");
  refuse([](auto& s) { s["steps"] = torch::zeros({}); }, "must be one Long");
  refuse([](auto& s) { s["generator"] = torch::zeros({3}, torch::kByte); }, "this LibTorch's is");
  refuse([](auto& s) { s["generator"] = torch::zeros_like(s["generator"]); }, "mt19937");
}

TEST(HookStatesOfPowerSgd, BelongToHooksWithTheSameOptions) {
  const auto refuse = [](const hooks::PowerSgdOptions& saved, const hooks::PowerSgdOptions& loaded,
                         const std::string& reason) {
    Hooked<PowerSgd> hooked{PowerSgd(loaded)};
    const auto state = some_state<PowerSgd>(saved);
    expect_refusal([&] { hooked.load(state); }, reason);
  };
  refuse(eager_rank(4), eager_rank(2), "saved with matrix_approximation_rank 4; this hook has 2");
  refuse(eager_rank(2), eager_rank(2).warm_start(false), "with warm_start 1; this hook has 0");
  refuse(eager_rank(2).warm_start(false), eager_rank(2), "with warm_start 0; this hook has 1");
  refuse(eager_rank(2), eager_rank(2).use_error_feedback(false), "with use_error_feedback 1;");
  refuse(eager_rank(2).use_error_feedback(false), eager_rank(2), "with use_error_feedback 0;");
  refuse(eager_rank(2), eager_rank(2).min_compression_rate(1), "with min_compression_rate 0.001;");
  refuse(eager_rank(2), eager_rank(2).orthogonalization_epsilon(1e-8), "epsilon 0; this hook has");
  // After three steps, it no longer counts whether compression began with the first or the third.
  refuse(eager_rank(2), eager_rank(2).start_iteration(4), "from iteration 3; this hook has 4");
  Hooked<PowerSgd> later{PowerSgd(eager_rank(2).start_iteration(3))};
  later.load(some_state<PowerSgd>(eager_rank(2)));
  Hooked<BatchedPowerSgd> batched{BatchedPowerSgd(eager_rank(2).min_compression_rate(1))};
  expect_refusal([&] { batched.load(some_state<BatchedPowerSgd>(eager_rank(2))); },
                 "BatchedPowerSgd: the state was saved with min_compression_rate 0.001;");
  expect_refusal([&] { batched.load(some_state<PowerSgd>(eager_rank(2))); }, "another hook's");
}

// Neither is there what else was sent, nor another place in memory than after a load.
TEST(HookStatesOfPowerSgd, HaveFactorsInMemoryOfTheirOwn) {
  run_ranks_or_throw(1, [](const Group& group) {
    const auto expect_own = [&](auto hooked, const std::string& name) {
      static_cast<void>(hooked.steps(*group, 0, 3));
      const auto q = hooked.state().at(name);
      EXPECT_EQ(q.storage_offset(), 0);
      EXPECT_EQ(q.storage().nbytes(), q.nbytes());
    };
    for (const auto dtype : {torch::kFloat, torch::kDouble}) {
      expect_own(Hooked<PowerSgd>(PowerSgd(eager_rank(2)), dtype), "q.a");
      expect_own(Hooked<BatchedPowerSgd>(BatchedPowerSgd(eager_rank(2)), dtype), "q.0");
    }
    group->close();
  });
}

// The module was wrapped anew, with other buckets, and counts its plans from 1 again.
TEST(HookStatesOfBatchedPowerSgd, HaveNoFactorsOfBucketsThatComeNoMore) {
  run_ranks_or_throw(1, [](const Group& group) {
    const BatchedPowerSgd hook(eager_rank(2));
    const auto parameters = make_parameters({{12, 10}, {9, 9}});
    const ParametersByName names{{"a", parameters[0]}, {"b", parameters[1]}};
    const auto come = [&](const std::vector<torch::Tensor>& members, std::size_t index,
                          bool is_last) {
      HandMadeBucket bucket(members, torch::kFloat);
      bucket.buffer.copy_(wave(bucket.buffer.sizes(), 0));
      static_cast<void>(hook(*group, bucket.view(index, is_last)).wait());
    };
    for (int step = 0; step < 3; ++step) {
      come({parameters[0]}, 0, false);
      come({parameters[1]}, 1, true);
    }
    EXPECT_TRUE(hook.state(names).contains("q.1"));
    come(parameters, 0, true);
    const auto state = copy_of(hook.state(names));
    EXPECT_FALSE(state.contains("q.1"));
    hook.load_state(state, names);
    expect_same_state(hook.state(names), state);
    group->close();
  });
}

TEST(HookStatesOfBatchedPowerSgd, AreCheckedBeforeAnythingChanges) {
  const auto state = some_state<BatchedPowerSgd>(eager_rank(2));
  const auto refuse = [&](const std::function<void(HookState&)>& change,
                          const std::string& reason) {
    expect_refused<BatchedPowerSgd>(eager_rank(2), state, change, reason);
  };
  const auto places = [](std::int64_t bucket, std::int64_t place) {
    return torch::tensor({bucket, place}, torch::kLong);
  };
  refuse([](auto& s) { s.erase("plan"); }, "no 'plan'");
  refuse([](auto& s) { s.erase("q.0"); }, "no 'q.0'");
  refuse([](auto& s) { s.erase("random.0"); }, "no factor of bucket 0");
  refuse([](auto& s) { s.erase("error.b.c"); }, "of the bucket of 'b.c', and no error");
  refuse([](auto& s) { s.erase("place.a"); }, "lacks a parameter of bucket 0");
  refuse([](auto& s) { s.erase("place.a"), s.erase("place.b.c"); }, "belongs to no parameter");
  refuse([&](auto& s) { s["place.a"] = places(0, 1); }, "place 1 of bucket 0, which is none");
  refuse([&](auto& s) { s["place.a"] = places(-1, 0); }, "of bucket -1, which is none");
  refuse([&](auto& s) { s["place.a"] = places(1, 0); }, "lacks a parameter of bucket 0");
  refuse([](auto& s) { s["place.a"] = torch::zeros({2}); }, "must be two Longs");
  refuse([](auto& s) { s["random.0"] = s["q.0"] = torch::zeros({5, 2}); }, "one of 5 rows");
  refuse([](auto& s) { s["random.0"] = torch::zeros({12, 1}); }, "'random.0' of the state");
}

TEST(HookStatesOfInt8, AreCheckedBeforeAnythingChanges) {
  const hooks::Int8ErrorFeedbackOptions options;
  const auto state = some_state<Int8ErrorFeedback>(options);
  const auto refuse = [&](const std::function<void(HookState&)>& change,
                          const std::string& reason) {
    expect_refused<Int8ErrorFeedback>(options, state, change, reason);
  };
  EXPECT_EQ(state.size(), 3U);
  refuse([](auto& s) { s.erase("Int8ErrorFeedback"); }, "no 'Int8ErrorFeedback'");
  refuse([](auto& s) { s["Int8ErrorFeedback"] = torch::zeros({3}); }, "it must be 2 Doubles");
  refuse([](auto& s) { s["steps"] = torch::zeros({}, torch::kLong); }, "'steps', which belongs");
  refuse([](auto& s) { s["error.a"] = torch::zeros({12}); }, "it must be Float or Double of shape");
  refuse([](auto& s) { s["error.a"] = torch::Tensor(); }, "is undefined");
  Hooked<Int8ErrorFeedback> open{
      Int8ErrorFeedback(hooks::Int8ErrorFeedbackOptions().use_error_feedback(false))};
  expect_refusal([&] { open.load(state); }, "use_error_feedback 1; this hook has 0");
  Hooked<Int8ErrorFeedback> narrow{
      Int8ErrorFeedback(hooks::Int8ErrorFeedbackOptions().chunk_elements(64))};
  expect_refusal([&] { narrow.load(state); }, "chunk_elements 1024; this hook has 64");
  expect_refusal([&] { narrow.load(some_state<PowerSgd>(eager_rank(2))); }, "another hook's");
}

TEST(HookStatesInGeneral, NameEveryParameterThatHasOne) {
  run_ranks_or_throw(1, [](const Group& group) {
    Hooked<Int8ErrorFeedback> hooked{Int8ErrorFeedback()};
    EXPECT_EQ(hooked.hook.state({}).size(), 1U) << "before the first backward";
    static_cast<void>(hooked.steps(*group, 0, 1));
    expect_refusal([&] { static_cast<void>(hooked.hook.state({})); }, "none of the 0 given ones");
    // What belonged to a parameter that is gone belongs to nothing.
    HandMadeBucket other(make_parameters({{5}}), torch::kFloat);
    static_cast<void>(other.reduce(*group, hooked.hook, {wave({5}, 0)}));
    other.parameters.clear();
    EXPECT_EQ(hooked.state().size(), 3U);
    group->close();
  });
}

TEST(HookStatesInGeneral, AreLoadedAsOftenAsTheyArePrepared) {
  run_ranks_or_throw(1, [](const Group& group) {
    const auto expect_same = [&](auto hooked) {
      static_cast<void>(hooked.steps(*group, 0, 3));
      const auto load = hooked.hook.prepare_state(copy_of(hooked.state()), hooked.names());
      const auto expected = hooked.steps(*group, 3, 5);
      for (int i = 0; i < 2; ++i) {
        load();
        EXPECT_TRUE(hooked.steps(*group, 3, 5).equal(expected)) << i;
      }
    };
    const auto cold = eager_rank(2).warm_start(false);  // draws in each step
    expect_same(Hooked<PowerSgd>(PowerSgd(cold)));
    expect_same(Hooked<BatchedPowerSgd>(BatchedPowerSgd(cold)));
    group->close();
  });
}

TEST(HookStatesInGeneral, OfCopiesAreOne) {
  run_ranks_or_throw(1, [](const Group& group) {
    Hooked<PowerSgd> hooked{PowerSgd(eager_rank(1))};
    const PowerSgd kept = hooked.hook;
    static_cast<void>(hooked.steps(*group, 0, 3));
    expect_same_state(kept.state(hooked.names()), hooked.state());
    kept.load_state(Hooked<PowerSgd>{PowerSgd(eager_rank(1))}.state(), hooked.names());
    EXPECT_EQ(hooked.hook.steps(), 0U);
    EXPECT_FALSE(hooked.hook.error_of(hooked.bucket.parameters[0]).defined());
    group->close();
  });
}

TEST(HookStatesInGeneral, CountersAreTextsOfTheirKind) {
  run_ranks_or_throw(1, [](const Group& group) {
    const hooks::PostLocalSgd local;
    HandMadeBucket bucket(make_parameters({{5}}), torch::kFloat);
    for (int i = 0; i < 3; ++i) static_cast<void>(bucket.reduce(*group, local, {wave({5}, 0)}));
    EXPECT_EQ(local.state(), "PostLocalSgd 3");
    const hooks::PostLocalSgd other;
    other.load_state(local.state());
    EXPECT_EQ(other.steps(), 3U);
    hooks::PeriodicModelAverager averager(group, 100, 50);
    for (int i = 0; i < 12; ++i) averager.average_parameters({});
    hooks::PeriodicModelAverager second(group, 100, 50);
    second.load_state(averager.state());
    EXPECT_EQ(second.step(), 12);
    for (const std::string text :
         {"PostLocalSgd 3", "", "12", "PeriodicModelAverager ", "PeriodicModelAverager 1x",
          "PeriodicModelAverager -1", "PeriodicModelAverager 9223372036854775808"}) {
      expect_refusal([&] { second.load_state(text); }, "must be 'PeriodicModelAverager ' and a");
    }
    expect_refusal([&] { other.load_state(averager.state()); }, "must be 'PostLocalSgd ' and a");
    EXPECT_EQ(second.step(), 12);
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing

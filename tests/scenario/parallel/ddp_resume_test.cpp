// SPDX-License-Identifier: BSD-3-Clause
// Models that go on with the state of another one, as a resumed run does, with ranks as threads.
#include <gtest/gtest.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/hooks/power_sgd.h>
#include <lockstep/training/checkpointer.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/expected_errors.h"
#include "support/hook_buckets.h"
#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"
#include "support/small_nets.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;
using Options = DistributedDataParallelOptions;
using Names = std::vector<std::string>;

class DdpResume : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, DdpResume, ::testing::Values(1, 2, 3));

/// Registers its layers in another order than it uses them.
struct MixedUpImpl : torch::nn::Module {
  MixedUpImpl() {
    c = register_module("c", torch::nn::Linear(8, 6));
    a = register_module("a", torch::nn::Linear(5, 9));
    b = register_module("b", torch::nn::Linear(9, 8));
    fill_parameters(*this);
  }
  torch::Tensor forward(const torch::Tensor& x) { return c(torch::tanh(b(torch::tanh(a(x))))); }
  torch::nn::Linear a{nullptr}, b{nullptr}, c{nullptr};
};
TORCH_MODULE(MixedUp);

/// A backward within its backward gives `last` another gradient, behind all others, if it repeats.
struct TwiceImpl : torch::nn::Module {
  TwiceImpl() {
    for (const char* name : {"first", "middle", "last"}) {
      register_parameter(name, torch::ones({64}));
    }
    fill_parameters(*this);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto parts = parameters(false);
    const auto hidden = torch::tanh(parts[0] * x);
    if (repeats) {
      hidden.register_hook([last = parts[2], x, does_throw = throws](const torch::Tensor&) {
        if (does_throw) throw std::runtime_error("a hook of the program");
        const torch::AutoGradMode with_gradients(true);
        (last * x).square().sum().backward();
      });
    }
    return torch::tanh(hidden * parts[1]) * parts[2];
  }
  bool repeats = true;
  bool throws = false;
};
TORCH_MODULE(Twice);

/// How a program uses its model.
template <class Net>
struct Use {
  Options options;
  std::function<torch::Tensor(int rank, int step)> input;
  /// Before the forward of a step, and before the model is wrapped.
  std::function<void(Net& net, int step)> prepare = [](Net&, int) {};
  /// With a hook that depends on the buckets.
  bool has_hook = true;
};

Options small_buckets() {
  return Options().bucket_cap_bytes(256).first_bucket_cap_bytes(256);
}

Use<MixedUp> usual() {
  return {small_buckets(), [](int rank, int step) {
            return wave({4, 5}, rank, step).to(torch::kFloat);
          }};
}

/// A program on one rank, from step `begin` on.
template <class Net>
struct Life {
  Life(const Group& its_group, Use<Net> its_use, int begin)
      : group(its_group), use(std::move(its_use)), net(prepared(use, begin)), step(begin) {
    if (use.has_hook) model->register_communication_hook(hook);
  }

  static Net prepared(const Use<Net>& use, int begin) {
    Net net;
    use.prepare(net, begin);
    return net;
  }
  [[nodiscard]] hooks::ParametersByName names() const {
    hooks::ParametersByName names;
    for (const auto& item : net->named_parameters()) names.emplace(item.key(), item.value());
    return names;
  }
  void train_to(int end) {
    for (; step < end; ++step) {
      use.prepare(net, step);
      model->zero_grad();
      model->forward(use.input(group->rank(), step)).square().mean().backward();
      const torch::NoGradGuard no_grad;
      for (auto& parameter : net->parameters()) {
        if (parameter.grad().defined()) parameter.sub_(parameter.grad(), 0.1);
      }
    }
  }
  /// A life that begins where this one is. `loads`: it gets the model's state.
  [[nodiscard]] std::unique_ptr<Life> next(bool loads = true) const {
    auto life = std::make_unique<Life>(group, use, step);
    const torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < net->parameters().size(); ++i) {
      life->net->parameters()[i].copy_(net->parameters()[i]);
    }
    life->hook.load_state(hook.state(names()), life->names());
    if (loads) {
      life->model->load_state(model->state());
      EXPECT_EQ(life->model->state(), model->state());
    }
    return life;
  }
  [[nodiscard]] Names buckets() const {
    Names names;
    for (const auto& bucket : model->statistics().buckets) {
      std::string text;
      for (const auto& name : bucket.parameters) text += name + " ";
      names.push_back(text);
    }
    return names;
  }

  Group group;
  Use<Net> use;
  Net net;
  DistributedDataParallel<Net> model{net, group, use.options};
  hooks::BatchedPowerSgd hook{
      hooks::PowerSgdOptions().start_iteration(0).min_compression_rate(0.1)};
  int step;
};

/// A run that is interrupted after `saved_after` steps has the bits of one that is not.
/// `differs_without`: it would have others if the model began anew.
template <class Net>
void expect_to_go_on(const Group& group, const Use<Net>& use, int saved_after,
                     bool differs_without) {
  constexpr int kEnd = 9;
  Life<Net> whole(group, use, 0);
  whole.train_to(saved_after);
  const auto second = whole.next();
  const auto third = whole.next(/*loads=*/false);
  whole.train_to(kEnd);
  second->train_to(kEnd);
  third->train_to(kEnd);
  EXPECT_TRUE(flat_parameters(second->net).equal(flat_parameters(whole.net))) << saved_after;
  if (differs_without && group->size() > 1) {
    EXPECT_FALSE(flat_parameters(third->net).equal(flat_parameters(whole.net))) << saved_after;
  }
  EXPECT_EQ(second->buckets(), whole.buckets());
  EXPECT_EQ(second->model->statistics().plan, whole.model->statistics().plan);
  EXPECT_EQ(second->model->statistics().plan_reason, whole.model->statistics().plan_reason);
  EXPECT_EQ(second->model->state(), whole.model->state());
}

TEST_P(DdpResume, GoesOnWithTheLearnedBuckets) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const int saved_after : {0, 1, 2, 4}) {
      expect_to_go_on(group, usual(), saved_after, saved_after > 1);
    }
    group->close();
  });
}

TEST_P(DdpResume, GoesOnBesideParametersThatNeverNeededGradients) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto use = usual();
    use.prepare = [](MixedUp& net, int) {
      for (auto& parameter : net->a->parameters()) parameter.set_requires_grad(false);
    };
    for (const int saved_after : {1, 3}) expect_to_go_on(group, use, saved_after, false);
    group->close();
  });
}

TEST_P(DdpResume, GoesOnWithTunedBuckets) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto use = usual();
    use.options.tune_buckets_after(3);
    Life<MixedUp> whole(group, use, 0);
    whole.train_to(3);
    const auto second = whole.next();  // the tuned buckets are those of the next backward
    whole.train_to(6);
    second->train_to(6);
    EXPECT_TRUE(flat_parameters(second->net).equal(flat_parameters(whole.net)));
    EXPECT_EQ(second->buckets(), whole.buckets());
    const auto reason = second->model->statistics().plan_reason;
    EXPECT_EQ(reason.substr(0, 6), group->size() > 1 ? "tuned:" : "");
    group->close();
  });
}

Use<Twice> repeating() {
  Use<Twice> use{small_buckets(),
                 [](int rank, int step) { return wave({64}, rank, step).to(torch::kFloat); }};
  use.has_hook = false;
  return use;
}

TEST_P(DdpResume, GoesOnWithTheNumberOfGradientsOfEachParameter) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    expect_to_go_on(group, repeating(), 3, true);
    group->close();
  });
}

TEST_P(DdpResume, GoesOnWhereRanksHaveDifferentNumbersOfGradients) {
  const training::TemporaryFolder folder;
  const auto use_of = [](const Group& group) {
    auto use = repeating();
    use.prepare = [rank = group->rank()](Twice& net, int) { net->repeats = rank > 0; };
    return use;
  };
  std::string of_rank_0;
  expect_no_errors(run_ranks(GetParam(), [&](const Group& group) {
    Life<Twice> whole(group, use_of(group), 0);
    whole.train_to(3);
    training::TrainingState state;
    state.add("model", whole.net).add("ddp", whole.model);
    training::Checkpointer checkpointer(group, folder / "c");
    checkpointer.save(state, 3);
    checkpointer.wait();
    Life<Twice> second(group, use_of(group), 3);
    training::TrainingState loaded;
    loaded.add("model", second.net).add("ddp", second.model);
    ASSERT_TRUE(checkpointer.load_latest(loaded));
    EXPECT_EQ(second.model->state(), whole.model->state());
    if (group->rank() == 0) of_rank_0 = whole.model->state();
    group->barrier();
    EXPECT_EQ(whole.model->state() == of_rank_0, group->rank() == 0);
    const auto third = whole.next(/*loads=*/false);
    third->model->adapt_state(of_rank_0, group->rank())();
    whole.train_to(4);
    second.train_to(4);
    third->train_to(4);
    const auto gradient = [](const Life<Twice>& life) { return life.net->parameters()[2].grad(); };
    EXPECT_TRUE(gradient(second).equal(gradient(whole)));
    EXPECT_EQ(gradient(*third).equal(gradient(whole)), group->size() == 1);
    whole.train_to(6);
    second.train_to(6);
    EXPECT_TRUE(flat_parameters(second.net).equal(flat_parameters(whole.net)));
    group->close();
  }));
  expect_no_errors(run_ranks(GetParam() % 3 + 1, [&](const Group& group) {
    Life<Twice> other(group, use_of(group), 3);
    training::TrainingState loaded;
    loaded.add("model", other.net).add("ddp", other.model);
    training::Checkpointer checkpointer(group, folder / "c");
    ASSERT_TRUE(checkpointer.load_latest(loaded));
    if (GetParam() > 1) {
      EXPECT_EQ(other.model->state(), of_rank_0);
    }
    other.train_to(4);
    group->close();
  }));
}

TEST_P(DdpResume, GoesOnWithTheUsualNumberOfSamples) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto use = usual();
    use.options.averaging(GradientAveraging::Samples);
    use.input = [](int rank, int step) {
      return wave({3 + (rank * 5 + step) % 7, 5}, rank, step).to(torch::kFloat);
    };
    use.has_hook = false;
    expect_to_go_on(group, use, 3, true);
    group->close();
  });
}

/// "b" is frozen in steps 3 to 5.
Use<MixedUp> freezing() {
  auto use = usual();
  use.prepare = [](MixedUp& net, int step) {
    for (auto& parameter : net->b->parameters()) parameter.set_requires_grad(step < 3 || step > 5);
  };
  return use;
}

TEST_P(DdpResume, GoesOnWhileParametersAreFrozenAndThawed) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const int saved_after : {2, 3, 4, 5, 6, 7}) {
      expect_to_go_on(group, freezing(), saved_after, false);
    }
    group->close();
  });
}

TEST_P(DdpResume, KeepsAStateThatNoForwardHasUsed) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Life<MixedUp> first(group, freezing(), 0);
    first.train_to(4);
    const auto second = first.next();  // has memory for some parameters alone, until a forward
    const auto third = second->next();
    first.train_to(9);
    third->train_to(9);
    EXPECT_TRUE(flat_parameters(third->net).equal(flat_parameters(first.net)));
    EXPECT_EQ(third->buckets(), first.buckets());
    group->close();
  });
}

TEST_P(DdpResume, GoesOnWithAnotherNumberOfRanks) {
  std::string state;
  Names buckets;
  run_ranks_or_throw(3, [&](const Group& group) {
    Life<MixedUp> first(group, usual(), 0);
    first.train_to(4);
    if (group->rank() == 0) {
      state = first.model->state();
      buckets = first.buckets();
    }
    group->close();
  });
  run_ranks_or_throw(GetParam(), [&](const Group& group) {
    Life<MixedUp> second(group, usual(), 4);
    second.model->load_state(state);
    EXPECT_EQ(second.model->state(), state) << "also in a world of one";
    second.train_to(5);
    if (group->size() > 1) {
      EXPECT_EQ(second.buckets(), buckets);
      EXPECT_EQ(second.model->statistics().plan, 2U);
    }
    group->close();
  });
}

TEST_P(DdpResume, ForgetsWhatItHadLearnedItself) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Life<MixedUp> whole(group, usual(), 0);
    whole.train_to(1);
    const auto state = whole.model->state();
    Life<MixedUp> other(group, freezing(), 0);
    other.train_to(8);
    other.model->load_state(state);
    EXPECT_EQ(other.model->state(), state);
    whole.train_to(2);
    other.train_to(9);
    EXPECT_EQ(other.buckets(), whole.buckets());
    group->close();
  });
}

TEST_P(DdpResume, TakesBucketsWithTheNumberOfItsOwn) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Life<MixedUp> whole(group, usual(), 0);
    whole.train_to(2);
    Life<MixedUp> other(group, freezing(), 2);
    other.train_to(4);
    EXPECT_EQ(other.model->statistics().plan, whole.model->statistics().plan);
    EXPECT_TRUE(group->size() == 1 || other.buckets() != whole.buckets());
    other.model->load_state(whole.model->state());
    other.step = 7;
    other.train_to(8);
    EXPECT_EQ(other.buckets(), whole.buckets());
    group->close();
  });
}

/// Parameters of 5 MB: two of them are larger together than a bucket that is reduced in place.
struct WideImpl : torch::nn::Module {
  WideImpl() {
    for (const char* name : {"a", "b", "c"}) register_parameter(name, torch::full({1300000}, 0.1));
  }
  torch::Tensor forward(const torch::Tensor& x) {
    torch::Tensor sum = x;
    for (const auto& parameter : parameters(false)) sum = sum + parameter.narrow(0, 0, 4);
    return sum;
  }
};
TORCH_MODULE(Wide);

TEST_P(DdpResume, HasTheCapsOfBucketsThatAHookReduces) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const Use<Wide> use{Options().first_bucket_cap_bytes(std::size_t{25} << 20),
                        [](int rank, int) { return torch::full({4}, rank + 1.0); },
                        [](Wide& net, int step) {
                          net->parameters()[0].set_requires_grad(step < 2);  // a new set
                        }};
    Life<Wide> whole(group, use, 0);
    whole.train_to(2);
    const auto second = whole.next();
    whole.train_to(3);
    second->train_to(3);
    EXPECT_EQ(whole.buckets().size(), group->size() > 1 ? 1U : 0U);
    EXPECT_EQ(second->buckets(), whole.buckets());
    EXPECT_EQ(second->model->state(), whole.model->state());
    group->close();
  });
}

TEST_P(DdpResume, RefusesAStateInTheMiddleOfAStep) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    if (group->size() == 1) return group->close();  // nothing waits in a world of one
    Life<MixedUp> life(group, usual(), 0);
    life.train_to(2);
    const auto state = life.model->state();
    const auto output = life.model->forward(usual().input(group->rank(), 3));
    int refused = 0;
    output.register_hook([&](const torch::Tensor&) {
      expect_refusal([&] { life.model->load_state(state); }, "cannot be loaded during backward");
      ++refused;
    });
    output.square().mean().backward();
    EXPECT_EQ(refused, 1);
    life.model->zero_grad();
    {
      const auto guard = life.model->no_sync();
      life.model->forward(usual().input(group->rank(), 4)).square().mean().backward();
      expect_refusal([&] { life.model->load_state(state); },
                     "'c.weight' waits for its average (no_sync)");
    }
    life.model->zero_grad();
    life.model->load_state(state);
    life.train_to(4);
    group->close();
  });
}

TEST_P(DdpResume, LoadsAfterABackwardThatThrew) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Life<Twice> life(group, repeating(), 0);
    life.train_to(2);
    const auto other = life.next();
    const auto state = life.model->state();
    life.net->throws = true;
    life.model->zero_grad();
    const auto loss = life.model->forward(life.use.input(group->rank(), 2)).square().mean();
    EXPECT_THROW(loss.backward(), std::runtime_error);
    EXPECT_TRUE(life.net->parameters()[2].grad().defined()) << "one of its two gradients came";
    life.net->throws = false;
    life.model->load_state(state);
    life.train_to(4);
    other->train_to(4);
    EXPECT_TRUE(flat_parameters(life.net).equal(flat_parameters(other->net)));
    EXPECT_EQ(life.model->state(), other->model->state());
    group->close();
  });
}

/// Its head is removed later.
struct HeadedImpl : MixedUpImpl {
  HeadedImpl() {
    head = register_module("head", torch::nn::Linear(5, 3));
    fill_parameters(*this);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto output = MixedUpImpl::forward(x);
    return head.is_empty() ? output : output + head(x).sum();
  }
  void remove_head() {
    if (head.is_empty()) return;
    unregister_module("head");
    head = nullptr;
  }
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Headed);

Use<Headed> losing_its_head() {
  return {small_buckets(), usual().input,
          [](Headed& net, int step) {
            if (step >= 3) net->remove_head();
          },
          /*has_hook=*/false};
}

TEST_P(DdpResume, LeavesOutParametersThatWereRemoved) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Life<Headed> whole(group, losing_its_head(), 0);
    whole.train_to(3);
    const auto with_head = whole.model->state();
    whole.net->remove_head();
    EXPECT_EQ(whole.model->state().find("head"), std::string::npos) << "before the next forward";
    EXPECT_NE(with_head.find("head"), std::string::npos);
    whole.train_to(5);
    const auto second = whole.next();  // compares the states
    whole.train_to(6);
    second->train_to(6);
    EXPECT_TRUE(flat_parameters(second->net).equal(flat_parameters(whole.net)));
    EXPECT_EQ(second->model->state(), whole.model->state());
    // Its own state has buckets for a model without the head: it makes them.
    whole.model->load_state(second->model->state());
    whole.train_to(7);
    second->train_to(7);
    EXPECT_TRUE(flat_parameters(second->net).equal(flat_parameters(whole.net)));
    EXPECT_EQ(whole.buckets(), second->buckets());
    group->close();
  });
}

TEST_P(DdpResume, TellsAParameterFromTheOneThatHadItsNameBefore) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Life<Headed> life(group, losing_its_head(), 0);
    life.train_to(2);
    const auto before = life.model->state();
    life.net->remove_head();
    life.net->head = life.net->register_module("head", torch::nn::Linear(5, 3));
    EXPECT_EQ(life.model->state() == before, group->size() == 1) << "it is in no bucket yet";
    life.model->load_state(life.model->state());
    life.train_to(3);
    EXPECT_EQ(life.net->head->weight.grad().defined(), true);
    group->close();
  });
}

TEST_P(DdpResume, BeginsAnewWithTheStateOfAWorldOfOne) {
  std::string state;
  run_ranks_or_throw(1, [&](const Group& group) {
    Life<MixedUp> alone(group, usual(), 0);
    alone.train_to(3);
    state = alone.model->state();
    group->close();
  });
  run_ranks_or_throw(GetParam(), [&](const Group& group) {
    Life<MixedUp> fresh(group, usual(), 0);
    fresh.train_to(1);
    Life<MixedUp> other(group, usual(), 0);
    other.train_to(3);
    other.model->load_state(state);
    other.train_to(4);
    EXPECT_EQ(other.buckets(), fresh.buckets());
    EXPECT_EQ(other.model->state(), fresh.model->state());
    group->close();
  });
}

TEST_P(DdpResume, RefusesTheStateOfAnotherModelOrOfOtherOptions) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Life<MixedUp> life(group, usual(), 0);
    life.train_to(2);
    const auto state = life.model->state();
    DistributedDataParallel<ConvNet> other(ConvNet(), group, small_buckets());
    expect_refusal([&] { other->load_state(state); },
                   "another model's: its parameter 1 is 'c.weight' (Float [6, 8]); this model's is "
                   "'conv1.weight' (Float [4, 2, 3, 3])");
    MixedUp wide;
    wide->to(torch::kDouble);
    DistributedDataParallel<MixedUp> wide_model(wide, group, small_buckets());
    expect_refusal([&] { wide_model->load_state(state); }, "is 'c.weight' (Double [6, 8])");
    MixedUp larger;
    larger->register_parameter("extra", torch::zeros({3}));
    DistributedDataParallel<MixedUp> larger_model(larger, group, small_buckets());
    expect_refusal([&] { larger_model->load_state(state); }, "'extra' (Float [3])");
    for (const auto& options :
         {Options(), small_buckets().bucket_caps_bytes({64}), small_buckets().learn_order(false),
          small_buckets().tune_buckets_after(7), small_buckets().reduce_dtype(torch::kBFloat16)}) {
      DistributedDataParallel<MixedUp> model(MixedUp(), group, options);
      expect_refusal([&] { model->load_state(state); },
                     "the state was saved with bucket_cap_bytes=256 first_bucket_cap_bytes=256");
    }
    group->close();
  });
}

TEST_P(DdpResume, RefusesTextsThatAreNoState) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Life<MixedUp> life(group, freezing(), 0);
    life.train_to(7);
    const auto state = life.model->state();
    for (std::size_t length = 0; length < state.size(); ++length) {
      EXPECT_THROW(life.model->load_state(state.substr(0, length)), c10::Error) << length;
    }
    expect_refusal([&] { life.model->load_state(state + "1 "); }, "goes on behind its end");
    expect_refusal([&] { life.model->load_state("lockstep-ddp-2 "); }, "or of another version");
    EXPECT_EQ(life.model->state(), state);
    // Whatever a changed character makes of it: an error, or a state with which training goes on.
    for (std::size_t place = 0; place < state.size(); ++place) {
      for (const char changed : {'0', '7', ' ', ':'}) {
        auto other = state;
        other[place] = changed;
        Life<MixedUp> fresh(group, freezing(), 7);
        try {
          fresh.model->load_state(other);
        } catch (const c10::Error&) {  // the usual case
          continue;
        }
        if (other != state) fresh.train_to(8);
      }
    }
    life.train_to(9);
    group->close();
  });
}

TEST_P(DdpResume, IsAnotherPartOfACheckpointThanItsModule) {
  const training::TemporaryFolder folder;
  expect_no_errors(run_ranks(GetParam(), [&](const Group& group) {
    Life<MixedUp> life(group, usual(), 0);
    life.train_to(3);
    training::TrainingState state;
    // The holder and what it holds are the same part.
    state.add("model", life.net).add("ddp", life.model).add("impl", *life.model);
    training::Checkpointer checkpointer(group, folder / "c");
    checkpointer.save(state, 3);
    checkpointer.wait();
    EXPECT_EQ(state.parts()[0].state().tensors.size(), 6U);
    for (const std::size_t part : {1U, 2U}) {
      const auto saved = state.parts()[part].state();
      EXPECT_TRUE(saved.tensors.empty());
      EXPECT_EQ(saved.texts.at("state"), life.model->state());
    }
    const auto before = flat_parameters(life.net);
    const auto learned = life.model->state();
    Life<MixedUp> other(group, usual(), 3);
    training::TrainingState loaded;
    loaded.add("ddp", other.model).add("model", other.net);
    training::Checkpointer second(group, folder / "c2");
    second.save(state, 3);
    second.wait();
    ASSERT_TRUE(second.load_latest(loaded));
    EXPECT_EQ(other.model->state(), learned);
    EXPECT_TRUE(flat_parameters(other.net).equal(before));

    // A part is what its variable is when it is saved.
    const auto kept = life.model.ptr();
    MixedUp unknown;
    life.model = DistributedDataParallel<MixedUp>(unknown, group, small_buckets());
    expect_refusal([&] { second.save(state, 4); }, "'ddp' is not saved with its parameters");
    life.model = kept;

    // Whoever adds the wrapper alone would lose the parameters.
    training::TrainingState alone;
    alone.add("model", life.model);
    expect_refusal([&] { second.save(alone, 4); },
                   "'model' is not saved with its parameters, and its parameter 'module.");
    group->close();
  }));
}

TEST(DdpResumeChecks, ComeBeforeAnythingIsLoaded) {
  const training::TemporaryFolder folder;
  expect_no_errors(run_ranks(2, [&](const Group& group) {
    Life<MixedUp> life(group, usual(), 0);
    life.train_to(3);
    std::int64_t number = 1;
    training::TrainingState state;
    state.add("number", number).add("model", life.net).add("ddp", life.model);
    training::Checkpointer checkpointer(group, folder / "c");
    checkpointer.save(state, 3);
    checkpointer.wait();
    auto use = usual();
    use.options.bucket_cap_bytes(512);
    Life<MixedUp> other(group, use, 0);
    const auto before = flat_parameters(other.net);
    std::int64_t other_number = 2;
    training::TrainingState loaded;
    loaded.add("number", other_number).add("model", other.net).add("ddp", other.model);
    expect_refusal([&] { static_cast<void>(checkpointer.load_latest(loaded)); },
                   "this model has bucket_cap_bytes=512");
    EXPECT_EQ(other_number, 2);
    EXPECT_TRUE(flat_parameters(other.net).equal(before));
    group->close();
  }));
}

}  // namespace
}  // namespace lockstep::testing

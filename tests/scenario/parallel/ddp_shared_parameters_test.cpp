// SPDX-License-Identifier: BSD-3-Clause
// Parameters that several wrapped models have, with ranks as threads. What is right is what each
// rank's own backwards give without any wrapper, averaged.
#include "scenario/parallel/ddp_test_support.h"

namespace lockstep::testing {
namespace {

constexpr std::int64_t kWide = 40;

/// A head of its own behind an encoder that others have too.
struct SharingTaskImpl : torch::nn::Module {
  SharingTaskImpl(Linear shared, double phase) : encoder(std::move(shared)) {
    fill_parameters(*head, phase);
    register_module("encoder", encoder);
    register_module("head", head);
  }
  torch::Tensor forward(const torch::Tensor& x, bool uses_encoder = true) {
    return head(torch::tanh(uses_encoder ? encoder(x) : x)).pow(2).sum();
  }
  Linear encoder;
  Linear head{kWide, 3};
};
TORCH_MODULE(SharingTask);

/// Tasks around one encoder: the same numbers wherever they are made.
std::vector<SharingTask> make_tasks(std::size_t count) {
  Linear encoder(kWide, kWide);
  fill_parameters(*encoder, 5);
  std::vector<SharingTask> tasks;
  for (std::size_t i = 0; i < count; ++i) tasks.emplace_back(encoder, static_cast<double>(i));
  return tasks;
}

torch::Tensor rows_of_task(int rank, std::size_t task, int step) {
  const auto places = torch::arange(4 * kWide, torch::kFloat);
  const auto phase = static_cast<float>(rank) + 2.0F * static_cast<float>(task);
  return torch::sin(places * 0.3F + phase + 0.7F * static_cast<float>(step)).view({4, kWide});
}

/// Backwards, one after the other, of losses of these tasks together.
using Order = std::vector<std::vector<std::size_t>>;

template <typename Forward>
void run_backwards(const Order& order, const Forward& forward) {
  for (const auto& together : order) {
    torch::Tensor loss;
    for (const std::size_t task : together) {
      const auto own = forward(task);
      loss = loss.defined() ? loss + own : own;
    }
    loss.backward();
  }
}

std::vector<torch::Tensor> all_parameters(const std::vector<SharingTask>& tasks) {
  auto all = tasks[0]->encoder->parameters();
  for (const auto& task : tasks) {
    for (const auto& parameter : task->head->parameters()) all.push_back(parameter);
  }
  return all;
}

/// What every rank must have after these backwards of the ranks from `first` on; those that `uses`
/// leaves out do not use the encoder.
std::vector<torch::Tensor> expected_gradients(
    std::size_t count, const Order& order, int ranks, int step, int first = 0,
    const std::function<bool(int rank)>& uses = [](int) { return true; }) {
  auto tasks = make_tasks(count);
  for (int rank = first; rank < ranks; ++rank) {
    run_backwards(order, [&](std::size_t task) {
      return tasks[task]->forward(rows_of_task(rank, task, step), uses(rank)) / (ranks - first);
    });
  }
  std::vector<torch::Tensor> gradients;
  for (const auto& parameter : all_parameters(tasks)) gradients.push_back(parameter.grad());
  return gradients;
}

void expect_gradients(const std::vector<SharingTask>& tasks,
                      const std::vector<torch::Tensor>& expected, const std::string& where) {
  const auto parameters = all_parameters(tasks);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto& gradient = parameters[i].grad();
    ASSERT_EQ(gradient.defined(), expected[i].defined()) << where << ", parameter " << i;
    if (!gradient.defined()) continue;
    EXPECT_TRUE(torch::allclose(gradient, expected[i], 1e-4, 1e-5)) << where << ", parameter " << i;
  }
}

const std::vector<Order> kOrders{{{0}}, {{1}}, {{0, 1}}, {{0}, {1}}, {{1}, {0}}, {{1, 0}, {1}}};

enum class SharedKind { InPlace, Copied, Hook, Static, Bfloat16 };

Options options_of_shared(SharedKind kind) {
  Options options;
  options.bucket_caps_bytes({1024});
  if (kind == SharedKind::Copied) options.gradients_in_group_memory(false);
  if (kind == SharedKind::Static) options.static_graph(true);
  return options;
}

Future<at::Tensor> average_in_double(ProcessGroup& ranks, const GradientBucketView& bucket) {
  const auto wide = bucket.buffer().to(torch::kDouble);
  return ranks.all_reduce(wide, ReduceOp::Avg).then([wide] { return wide.to(torch::kFloat); });
}

using WrappedTasks = std::vector<DistributedDataParallel<SharingTask>>;

WrappedTasks wrap_tasks(const std::vector<SharingTask>& tasks, const Group& group,
                        const Options& options = {}) {
  WrappedTasks models;
  for (const auto& task : tasks) models.emplace_back(task, group, options);
  return models;
}

class DdpSharedParameters : public ::testing::TestWithParam<int> {
 protected:
  static void check(const Group& group, std::size_t count, const Order& order, SharedKind kind) {
    auto tasks = make_tasks(count);
    auto models = wrap_tasks(tasks, group, options_of_shared(kind));
    if (kind == SharedKind::Hook) {
      for (auto& model : models) model->register_communication_hook(average_in_double);
    }
    for (int step = 0; step < 3; ++step) {
      for (auto& model : models) model->zero_grad();
      run_backwards(order, [&](std::size_t task) {
        return models[task]->forward(rows_of_task(group->rank(), task, step));
      });
      std::string where = std::string("step ").append(std::to_string(step)) + ", order";
      for (const auto& together : order) {
        for (const auto task : together) where.append(" ").append(std::to_string(task));
        where.append(";");
      }
      expect_gradients(tasks, expected_gradients(count, order, group->size(), step), where);
    }
  }
};
INSTANTIATE_TEST_SUITE_P(WorldSizes, DdpSharedParameters, ::testing::Values(1, 2, 3));

TEST_P(DdpSharedParameters, OfOneModuleInTwoWrappersAreAveragedOnce) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const bool uses_first : {true, false}) {
      Linear net(4, 2);
      DistributedDataParallel<Linear> first(net, group), second(net, group);
      const auto x = torch::full({3, 4}, static_cast<float>(group->rank()));
      for (int step = 0; step < 3; ++step) {
        net->zero_grad();
        (uses_first ? first : second)->forward(x).sum().backward();
        ASSERT_TRUE(net->weight.grad().defined());
        EXPECT_FLOAT_EQ(net->weight.grad()[1][2].item<float>(),
                        3 * static_cast<float>(group->size() - 1) / 2);
      }
      if (group->size() == 1) continue;
      EXPECT_EQ(first->statistics().steps, uses_first ? 3u : 0u) << "the other one has no part";
      EXPECT_EQ(second->statistics().steps, uses_first ? 0u : 3u);
    }
    group->close();
  });
}

TEST_P(DdpSharedParameters, AreAveragedInEveryOrderOfTwoTasks) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const Order& order : kOrders) check(group, 2, order, SharedKind::InPlace);
    group->close();
  });
}

TEST_P(DdpSharedParameters, AreAveragedWhereGradientsAreCopied) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const Order& order : kOrders) check(group, 2, order, SharedKind::Copied);
    group->close();
  });
}

TEST_P(DdpSharedParameters, AreAveragedByCommunicationHooks) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const Order& order : kOrders) check(group, 2, order, SharedKind::Hook);
    group->close();
  });
}

TEST_P(DdpSharedParameters, AreAveragedInStaticGraphs) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const Order& order : kOrders) check(group, 2, order, SharedKind::Static);
    group->close();
  });
}

TEST_P(DdpSharedParameters, AreAveragedByThreeWrappers) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const auto kind : {SharedKind::InPlace, SharedKind::Copied}) {
      for (const Order& order : std::vector<Order>{
               {{2}}, {{2, 0, 1}}, {{0}, {2}, {1}}, {{1, 2}, {0}}, {{0, 1, 2}, {2, 1}}}) {
        check(group, 3, order, kind);
      }
    }
    group->close();
  });
}

TEST_P(DdpSharedParameters, OfOneBackwardAreCopiedNowhere) {
  if (GetParam() == 1) return;
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto tasks = make_tasks(2);
    // The bias of the encoder and what the heads have are too small to be made in place.
    auto models = wrap_tasks(tasks, group);
    for (const Order& order : std::vector<Order>{{{0}}, {{0, 1}}}) {
      for (int step = 0; step < 3; ++step) {
        for (auto& model : models) model->zero_grad();
        run_backwards(order, [&](std::size_t task) {
          return models[task]->forward(rows_of_task(group->rank(), task, step));
        });
        const auto copied =
            models[0]->statistics().copied_bytes + models[1]->statistics().copied_bytes;
        EXPECT_LT(copied, tasks[0]->encoder->weight.nbytes()) << "step " << step;
        for (const std::size_t task : order[0]) {
          EXPECT_TRUE(models[task]->statistics().unused_parameters.empty()) << "step " << step;
          EXPECT_TRUE(models[task]->statistics().locally_unused_parameters.empty());
        }
      }
    }
    group->close();
  });
}

TEST_P(DdpSharedParameters, AddUpUnderAGuardUntilOneModelAverages) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const auto kind : {SharedKind::InPlace, SharedKind::Copied}) {
      for (const bool pauses_both : {true, false}) {
        auto tasks = make_tasks(2);
        auto models = wrap_tasks(tasks, group, options_of_shared(kind));
        const auto forward = [&](std::size_t task) {
          return models[task]->forward(rows_of_task(group->rank(), task, 0));
        };
        auto plain = make_tasks(1);
        plain[0]->forward(rows_of_task(group->rank(), 0, 0)).backward();
        {
          const auto guard = models[0]->no_sync();
          std::optional<NoSyncGuard> other;
          if (pauses_both) other.emplace(models[1]->no_sync());
          run_backwards({{0}}, forward);
          EXPECT_TRUE(
              torch::allclose(tasks[0]->encoder->weight.grad(), plain[0]->encoder->weight.grad()))
              << "nothing has been averaged";
          EXPECT_EQ(models[1]->statistics().steps, 0u);
        }
        run_backwards({{1}}, forward);
        run_backwards({{0}}, forward);
        expect_gradients(tasks, expected_gradients(2, {{0}, {1}, {0}}, group->size(), 0),
                         "after a guard");
      }
    }
    group->close();
  });
}

TEST_P(DdpSharedParameters, ThatOnlySomeRanksUse) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    // Models that work together on different parts need a group each: their calls mix otherwise.
    const auto second_group = group->size() > 1 ? group->split(0) : group;
    for (const auto kind : {SharedKind::InPlace, SharedKind::Copied}) {
      for (const Order& order :
           std::vector<Order>{{{0}}, {{1}}, {{0, 1}}, {{1, 0}}, {{0}, {1}}, {{1}, {0}}}) {
        auto tasks = make_tasks(2);
        WrappedTasks models;
        for (std::size_t i = 0; i < 2; ++i) {
          models.emplace_back(tasks[i], i == 0 ? group : second_group, options_of_shared(kind));
        }
        for (int step = 0; step < 3; ++step) {
          for (auto& model : models) model->zero_grad();
          // In each step another rank leaves the encoder out.
          const auto uses = [&](int rank) { return (rank + step) % group->size() != 0; };
          run_backwards(order, [&](std::size_t task) {
            return models[task]->forward(rows_of_task(group->rank(), task, step),
                                         uses(group->rank()));
          });
          expect_gradients(tasks, expected_gradients(2, order, group->size(), step, 0, uses),
                           std::string("step ").append(std::to_string(step)));
        }
      }
    }
    if (second_group != group) second_group->close();
    group->close();
  });
}

TEST_P(DdpSharedParameters, OfAModelInsideAnother) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    struct OuterImpl : torch::nn::Module {
      OuterImpl(SharingTask task, const Group& group) : inner(std::move(task), group) {
        register_module("inner", inner.ptr());
        fill_parameters(*tail, 3);
        register_module("tail", tail);
      }
      torch::Tensor forward(const torch::Tensor& x) { return inner->forward(torch::tanh(tail(x))); }
      DistributedDataParallel<SharingTask> inner;
      Linear tail{kWide, kWide};
    };
    struct Outer : torch::nn::ModuleHolder<OuterImpl> {
      using ModuleHolder<OuterImpl>::ModuleHolder;
    };
    auto task = make_tasks(1)[0];
    Outer outer(task, group);
    DistributedDataParallel<Outer> model(outer, group);
    auto plain = make_tasks(1)[0];
    Linear tail(kWide, kWide);
    fill_parameters(*tail, 3);
    for (int step = 0; step < 2; ++step) {
      model->zero_grad();
      for (auto* module : std::initializer_list<torch::nn::Module*>{plain.get(), tail.get()}) {
        module->zero_grad();
      }
      model->forward(rows_of_task(group->rank(), 0, step)).backward();
      for (int rank = 0; rank < group->size(); ++rank) {
        (plain->forward(torch::tanh(tail(rows_of_task(rank, 0, step)))) / group->size()).backward();
      }
      EXPECT_TRUE(torch::allclose(outer->tail->weight.grad(), tail->weight.grad(), 1e-4, 1e-5));
      EXPECT_TRUE(
          torch::allclose(task->encoder->weight.grad(), plain->encoder->weight.grad(), 1e-4, 1e-5));
      EXPECT_TRUE(torch::allclose(task->head->bias.grad(), plain->head->bias.grad(), 1e-4, 1e-5));
    }
    group->close();
  });
}

TEST_P(DdpSharedParameters, WithSparseGradients) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    torch::nn::Embedding words(torch::nn::EmbeddingOptions(5, 2).sparse(true));
    DistributedDataParallel<torch::nn::Embedding> first(words, group), second(words, group);
    const auto ranks = static_cast<float>(group->size());
    for (int step = 0; step < 2; ++step) {
      words->zero_grad();
      const auto loss = first->forward(torch::tensor({group->rank()})).sum() +
                        second->forward(torch::tensor({4, 4})).sum();
      loss.backward();
      second->forward(torch::tensor({3})).sum().backward();
      auto expected = torch::zeros({5, 2});
      for (int rank = 0; rank < group->size(); ++rank) expected[rank] += 1 / ranks;
      expected[4] += 2;
      expected[3] += 1;
      EXPECT_TRUE(torch::allclose(words->weight.grad().to_dense(), expected))
          << words->weight.grad().to_dense();
    }
    group->close();
  });
}

TEST_P(DdpSharedParameters, GoOnWhenTheOtherModelIsGone) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto tasks = make_tasks(2);
    auto first = std::make_unique<DistributedDataParallel<SharingTask>>(tasks[0], group);
    DistributedDataParallel<SharingTask> second(tasks[1], group);
    const auto backward = [&](DistributedDataParallel<SharingTask>& model, std::size_t task) {
      model->forward(rows_of_task(group->rank(), task, 0)).backward();
    };
    backward(*first, 0);
    first.reset();
    backward(second, 1);
    expect_gradients(tasks, expected_gradients(2, {{0}, {1}}, group->size(), 0), "second");
    DistributedDataParallel<SharingTask> third(tasks[0], group);
    backward(third, 0);
    expect_gradients(tasks, expected_gradients(2, {{0}, {1}, {0}}, group->size(), 0), "third");
    group->close();
  });
}

TEST_P(DdpSharedParameters, AverageBySamplesOfTheModelThatRan) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto tasks = make_tasks(2);
    const auto options = Options().averaging(GradientAveraging::Samples);
    DistributedDataParallel<SharingTask> first(tasks[0], group, options),
        second(tasks[1], group, options);
    second->forward(rows_of_task(group->rank(), 1, 0)).backward();
    expect_gradients(tasks, expected_gradients(2, {{1}}, group->size(), 0), "second alone");
    first->forward(rows_of_task(group->rank(), 0, 0)).backward();
    expect_gradients(tasks, expected_gradients(2, {{1}, {0}}, group->size(), 0), "then first");
    group->close();
  });
}

TEST_P(DdpSharedParameters, ReachRanksThatHaveJoined) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    // In one backward the calls of two models mix, which ranks that have joined cannot know.
    const auto second_group = group->size() > 1 ? group->split(0) : group;
    for (const Order& order : std::vector<Order>{{{0, 1}}, {{0}, {1}}, {{1}}}) {
      auto tasks = make_tasks(2);
      WrappedTasks models;
      models.emplace_back(tasks[0], group);
      models.emplace_back(tasks[1], second_group);
      int step = 0;
      const auto follow = [&] {
        // Behind the first step the last rank is the only one with data.
        const int first = step == 0 ? 0 : group->size() - 1;
        expect_gradients(tasks, expected_gradients(2, order, group->size(), step, first),
                         std::string("step ").append(std::to_string(step)));
        ++step;
        for (auto& model : models) model->zero_grad();
      };
      for (int i = 0; i < (group->rank() + 1 == group->size() ? 3 : 1); ++i) {
        run_backwards(order, [&](std::size_t task) {
          return models[task]->forward(rows_of_task(group->rank(), task, i));
        });
        follow();
      }
      if (order.size() == 1 && order[0].size() == 1) {
        models[1]->join(follow);
      } else {
        // In the order in which their backwards end: together, the last forward's comes first.
        const bool are_together = order.size() == 1;
        join({*models[are_together ? 1 : 0], *models[are_together ? 0 : 1]}, follow);
      }
      EXPECT_EQ(step, 3);
    }
    if (second_group != group) second_group->close();
    group->close();
  });
}

struct UnseenLoss {
  torch::Tensor loss;
};
struct UnseenImpl : torch::nn::Module {
  UnseenImpl() { weight = register_parameter("weight", torch::zeros({3})); }
  UnseenLoss forward(const torch::Tensor& x) { return {(x * weight).sum()}; }
  torch::Tensor weight;
};
TORCH_MODULE(Unseen);

TEST_P(DdpSharedParameters, AreAveragedByTheModelWhoseOutputNobodyCanWatch) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    for (const bool is_first : {true, false}) {
      Unseen net;
      DistributedDataParallel<Unseen> first(net, group), second(net, group);
      auto& model = is_first ? first : second;
      const auto& other = is_first ? second : first;
      for (int step = 0; step < 2; ++step) {
        net->zero_grad();
        {
          const auto guard = model->no_sync();
          model->forward(row_of_rank(group)).loss.backward();
        }
        EXPECT_FLOAT_EQ(net->weight.grad()[1].item<float>(), static_cast<float>(group->rank() + 1));
        model->forward(row_of_rank(group)).loss.backward();
        EXPECT_FLOAT_EQ(net->weight.grad()[1].item<float>(),
                        2 * static_cast<float>(mean_row(group)));
      }
      EXPECT_EQ(other->statistics().steps, 0U);
      EXPECT_EQ(model->statistics().steps, group->size() > 1 ? 2U : 0U);
    }
    group->close();
  });
}

// An optimizer that steps in a hook and drops the gradient, for example.
TEST_P(DdpSharedParameters, ThatSomethingElseTookAreAnErrorByName) {
  if (GetParam() == 1) return;
  const auto errors = run_ranks(GetParam(), [](const Group& group) {
    Linear net(4, 2);
    const auto node = torch::autograd::impl::grad_accumulator(net->bias);
    struct Thief final : torch::autograd::FunctionPostHook {
      explicit Thief(torch::Tensor tensor) : parameter(std::move(tensor)) {}
      torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                                const torch::autograd::variable_list&) override {
        parameter.mutable_grad().reset();
        return outputs;
      }
      torch::Tensor parameter;
    };
    node->add_post_hook(std::make_unique<Thief>(net->bias));
    DistributedDataParallel<Linear> model(net, group);
    model->forward(torch::ones({1, 4})).sum().backward();
  });
  for (const auto& error : errors) {
    expect_error<c10::Error>(error, "took the gradient of parameter 'bias'");
  }
}

}  // namespace
}  // namespace lockstep::testing

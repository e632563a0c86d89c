// SPDX-License-Identifier: BSD-3-Clause
// The snippets of the pages about DistributedDataParallel, as parts of programs that run in a world
// of one. check_snippets.py compares each `// [name]` part with the pages.
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <string>
#include <tuple>

namespace {

using torch::nn::Linear;
using Net = Linear;

struct Setting {
  std::shared_ptr<lockstep::ProcessGroup> group = lockstep::init_process_group(
      lockstep::ProcessGroupOptions().environment(lockstep::LaunchEnvironment()));
  Net net{4, 2};
  lockstep::DistributedDataParallel<Net> model{net, group};
  torch::optim::SGD optimizer{model->parameters(), 0.1};
  std::vector<torch::Tensor> batches{torch::ones({3, 4}), torch::ones({1, 4})};
  ~Setting() { group->close(); }
};

torch::Tensor loss_of(lockstep::DistributedDataParallel<Net>& model, const torch::Tensor& batch) {
  return model->forward(batch).sum();
}

TEST(DdpPage, Wraps) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  // [wrap]
  lockstep::DistributedDataParallel<Net> model(net, group,
      lockstep::DistributedDataParallelOptions().bucket_cap_bytes(25 << 20));
  // [wrap]
  loss_of(model, batches[0]).backward();
}

TEST(DdpPage, PlansBuckets) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  // [plan]
  lockstep::DistributedDataParallel<Net> model(net, group,
      lockstep::DistributedDataParallelOptions()
          .bucket_caps_bytes({1 << 20, 4 << 20, 16 << 20})  // first, second, all further buckets
          .tune_buckets_after(20));
  // [plan]
  loss_of(model, batches[0]).backward();
}

struct TwoHeadsImpl : torch::nn::Module {
  TwoHeadsImpl() {
    register_module("first", first);
    register_module("second", second);
  }
  torch::Tensor forward(const torch::Tensor& x, bool uses_first) {
    return uses_first ? first(x) : second(x);
  }
  Linear first{4, 2}, second{4, 2};
};
TORCH_MODULE(TwoHeads);

struct TwoResultsImpl : torch::nn::Module {
  TwoResultsImpl() { register_module("linear", linear); }
  std::tuple<torch::Tensor, torch::Tensor> forward(torch::Tensor x) {
    x = linear(x);
    return {x.sum(), x.mean()};
  }
  Linear linear{4, 2};
};
TORCH_MODULE(TwoResults);

TEST(DdpPage, WrapsModelsHoweverTheyAreHeld) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  const auto batch = batches[0];
  // [models]
  auto pointer = std::make_shared<TwoHeadsImpl>();
  lockstep::DistributedDataParallel held(pointer, group);      // of a std::shared_ptr<TwoHeadsImpl>

  torch::nn::Sequential layers(Linear(4, 8), torch::nn::ReLU(), Linear(8, 2));
  lockstep::DistributedDataParallel<torch::nn::Sequential> chain(layers, group);
  torch::Tensor output = chain->forward(batch);

  torch::nn::AnyModule any{TwoResults()};
  lockstep::DistributedDataParallel<torch::nn::AnyModule> wrapped(any, group);
  auto [sum, mean] = wrapped->forward_as<std::tuple<torch::Tensor, torch::Tensor>>(batch);
  // [models]
  (held->forward(batch, true).sum() + output.sum() + sum + mean).backward();
  EXPECT_TRUE(wrapped->parameters()[0].grad().defined());
}

// [member]
struct TrainerImpl : torch::nn::Module {
  explicit TrainerImpl(const std::shared_ptr<lockstep::ProcessGroup>& group) {
    model = register_module("model", lockstep::DistributedDataParallel<Linear>(Linear(4, 2), group));
  }
  lockstep::DistributedDataParallel<Linear> model{nullptr};  // empty until then
};
// [member]

TEST(DdpPage, HasModelsThatComeLater) {
  Setting setting;
  TrainerImpl trainer(setting.group);
  loss_of(trainer.model, setting.batches[0]).backward();
  EXPECT_TRUE(trainer.parameters()[0].grad().defined());
}

TEST(DdpPage, LeavesParametersUnused) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  const auto batch = batches[0];
  // [unused]
  lockstep::DistributedDataParallel<TwoHeads> model(TwoHeads(), group);
  const bool first = group->rank() == 0;       // each rank may use another head, or all the same one
  model->forward(batch, first).sum().backward();
  for (const auto& name : model->statistics().unused_parameters) {
    std::cout << "no rank used " << name << '\n';
  }
  // [unused]
  EXPECT_FALSE(model->module()->second->weight.grad().defined());
}

TEST(DdpPage, GoesForwardAndBackwardSeveralTimes) {
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  // [several]
  auto both = loss_of(model, batches[0]) + loss_of(model, batches[1]);  // two forwards, one backward
  both.backward({}, /*retain_graph=*/true);
  both.backward();                             // adds to the averages, and averages the sum
  // [several]
  EXPECT_EQ(net->bias.grad()[0].item<float>(), 8);
}

TEST(DdpPage, HasSparseGradients) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  // [sparse]
  torch::nn::Embedding words(torch::nn::EmbeddingOptions(1000, 16).sparse(true));
  lockstep::DistributedDataParallel<torch::nn::Embedding> embedding(words, group);
  embedding->forward(torch::tensor({3, 7, 3})).sum().backward();
  torch::Tensor gradient = words->weight.grad();  // sparse; rows 3 and 7, and those of other ranks
  // [sparse]
  EXPECT_TRUE(gradient.is_sparse());
}

TEST(DdpPage, FollowsParametersThatChange) {
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  Net other(4, 2);
  // [change]
  net->bias.set_requires_grad(false);          // on all ranks; seen by the next forward
  lockstep::DistributedDataParallel<Net> own_bias(other, group,
      lockstep::DistributedDataParallelOptions().ignored_names({"bias"}));  // each rank's own
  // [change]
  loss_of(model, batches[0]).backward();
  EXPECT_FALSE(net->bias.grad().defined());
}

// [outputs]
struct Prediction {
  torch::Tensor boxes, scores;
  template <typename F>
  void for_each_tensor(F f) const {
    f(boxes);
    f(scores);
  }
};
// [outputs]

struct DetectorImpl : torch::nn::Module {
  DetectorImpl() { register_module("net", net); }
  Prediction forward(const torch::Tensor& x) { return {net(x), net(x).sum(1)}; }
  Linear net{4, 2};
};
TORCH_MODULE(Detector);

TEST(DdpPage, HasOutputsOfAnyStructure) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  lockstep::DistributedDataParallel<Detector> model(Detector(), group);
  model->forward(batches[0]).scores.sum().backward();
  EXPECT_TRUE(model->module()->net->weight.grad().defined());
}

TEST(DdpPage, PromisesAStaticGraph) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  // [static]
  lockstep::DistributedDataParallel<Net> model(net, group,
      lockstep::DistributedDataParallelOptions().static_graph(true).reduce_dtype(torch::kBFloat16));
  // [static]
  loss_of(model, batches[0]).backward();
}

TEST(DdpPage, SavesAndLoads) {
  const auto old = std::filesystem::current_path();
  const auto folder = std::filesystem::temp_directory_path() / ("ddp_page" + std::to_string(::getpid()));
  std::filesystem::create_directory(folder);
  std::filesystem::current_path(folder);
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  Net other(4, 2);
  // [state]
  if (group->rank() == 0) torch::save(model, "model.pt");
  group->barrier();                            // nobody reads what is half written
  torch::load(other, "model.pt");              // a Net that nobody has wrapped
  // [state]
  EXPECT_TRUE(torch::equal(other->weight, net->weight));
  std::filesystem::current_path(old);
  std::filesystem::remove_all(folder);
}

TEST(DdpPage, Accumulates) {
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  // [accumulate]
  optimizer.zero_grad();
  for (std::size_t i = 0; i < batches.size(); ++i) {
    std::optional<lockstep::NoSyncGuard> guard;
    if (i + 1 < batches.size()) guard.emplace(model->no_sync());
    loss_of(model, batches[i]).backward();     // the last one averages the sum, once
  }
  optimizer.step();
  // [accumulate]
}

TEST(DdpPage, Joins) {
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  // [join]
  for (auto& batch : batches) {                // as many as this rank happens to have
    optimizer.zero_grad();
    loss_of(model, batch).backward();
    optimizer.step();
  }
  model->join([&] {                            // runs for each backward that the others still make
    optimizer.step();
    optimizer.zero_grad();
  });
  // [join]
}

TEST(DdpPage, JoinsSeveralModels) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  Net other(4, 2);
  // [several_models]
  lockstep::DistributedDataParallel<Net> judge(net, group,
      lockstep::DistributedDataParallelOptions().name("judge"));
  lockstep::DistributedDataParallel<Net> maker(other, group->split(0),
      lockstep::DistributedDataParallelOptions().name("maker"));
  lockstep::join({*judge, *maker}, [&] {       // after a backward of each, while others have data
    optimizer.step();
  });
  // [several_models]
}

TEST(DdpPage, Weighs) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  // [samples]
  lockstep::DistributedDataParallel<Net> model(net, group,
      lockstep::DistributedDataParallelOptions()
          .averaging(lockstep::GradientAveraging::Samples));
  loss_of(model, batches[0]).backward();       // counts batches[0].size(0) samples
  // [samples]
}

TEST(DdpPage, KeepsBuffersTogether) {
  Setting setting;
  auto& [group, net, unused, optimizer, batches] = setting;
  // [buffers]
  lockstep::DistributedDataParallel<Net> model(net, group,
      lockstep::DistributedDataParallelOptions()
          .buffer_sync(lockstep::BufferSync::Average));
  // [buffers]
  loss_of(model, batches[0]).backward();
}

TEST(DdpPage, TakesAHook) {
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  // [hook]
  model->register_communication_hook(
      [](lockstep::ProcessGroup& ranks, const lockstep::GradientBucketView& bucket) {
        const auto wide = bucket.buffer().to(torch::kDouble);      // sums in double
        return ranks.all_reduce(wide, lockstep::ReduceOp::Avg)
            .then([wide] { return wide.to(torch::kFloat); });
      });
  // [hook]
  loss_of(model, batches[0]).backward();
}

TEST(DdpPage, TellsWhatHappened) {
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  // [statistics]
  const auto statistics = model->statistics();
  std::cout << statistics.steps << " steps, " << statistics.last.exposed.count()
            << " s waited in the last one; buckets by " << statistics.plan_reason << '\n';
  for (const auto& name : statistics.unused_parameters) std::cout << name << " was not used\n";
  // [statistics]
}

TEST(HookPages, HaveHooksThatAreMadeReady) {
  Setting setting;
  auto& [group, net, model, optimizer, batches] = setting;
  // [bf16]
  model->register_communication_hook(lockstep::hooks::bf16_compress());
  // [bf16]
  // [power_sgd]
  lockstep::hooks::PowerSgd hook(lockstep::hooks::PowerSgdOptions()
                                     .matrix_approximation_rank(2)
                                     .start_iteration(500));
  model->register_communication_hook(hook);  // a copy, which shares its state
  const auto owed = hook.error_of(model->parameters()[0]);  // what this rank has still to send of it
  // [power_sgd]
  // [hook_state]
  lockstep::training::TrainingState state;
  state.add("model", net).add("optimizer", optimizer);
  state.add("ddp", model).add_of_rank("hook", hook);  // the hook that was registered
  // [hook_state]
  EXPECT_EQ(state.parts().size(), 4U);
  {
    // [around]
    using namespace lockstep::hooks;
    model->register_communication_hook(compress(at::kBFloat16, PowerSgd(PowerSgdOptions())));
    // [around]
  }
  loss_of(model, batches[0]).backward();
  // [local]
  auto host = group->split(group->rank() / group->local_size());  // hosts full, ranks host by host
  model->register_communication_hook(lockstep::hooks::PostLocalSgd(
      lockstep::hooks::PostLocalSgdOptions().start_iteration(1000).subgroup(host)));
  lockstep::hooks::PeriodicModelAverager averager(group, 4, 1000);
  // ... and in the loop, before zero_grad: parameters without a gradient are left out
  optimizer.step();
  averager.average_parameters(model->parameters());
  // [local]
  host->close();
}

// [sync_batch_norm]
struct NetImpl : torch::nn::Module {
  explicit NetImpl(const std::shared_ptr<lockstep::ProcessGroup>& group) {
    conv = register_module("conv", torch::nn::Conv2d(3, 64, 3));
    bn = register_module("bn", lockstep::nn::SyncBatchNorm(64, group));
  }
  torch::Tensor forward(const torch::Tensor& x) { return torch::relu(bn(conv(x))); }
  torch::nn::Conv2d conv{nullptr};
  lockstep::nn::SyncBatchNorm bn{nullptr};
};
// [sync_batch_norm]

TEST(BatchNormPage, NormalisesOverAllRanks) {
  Setting setting;
  EXPECT_EQ(NetImpl(setting.group).forward(torch::randn({2, 3, 5, 5})).size(1), 64);
  torch::nn::Sequential net{torch::nn::Conv2d(3, 4, 3), torch::nn::BatchNorm2d(4)};
  const auto& group = setting.group;
  // [convert]
  lockstep::nn::convert_sync_batchnorm(net, group);   // returns how many it changed
  // [convert]
  EXPECT_NE(net[1]->as<lockstep::nn::SyncBatchNorm>(), nullptr);
}

TEST(CheckpointPage, RunsBlocksAgain) {
  std::vector<Linear> blocks{Linear(4, 4), Linear(4, 4)};
  auto x = torch::ones({2, 4});
  // [checkpoint]
  for (auto& block : blocks) {
    x = lockstep::checkpoint([block](const torch::Tensor& y) mutable { return block(y); }, x);
  }
  // [checkpoint]
  x.sum().backward();
  EXPECT_TRUE(blocks[0]->weight.grad().defined());
}

}  // namespace

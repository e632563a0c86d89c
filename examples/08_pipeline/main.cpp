// SPDX-License-Identifier: BSD-3-Clause
// Trains a language model whose layers lie on several ranks:
//   mpirun -n 2 pipeline --data tokens                     two stages
//   mpirun -n 2 pipeline --data tokens --schedule zbv      two stages a rank
//   mpirun -n 4 pipeline --data tokens --replicas 2        two stages, each on two ranks
// `text_to_tokens` of examples/gpt makes the tokens of any text.
#include "gpt.h"
#include "run_program.h"

#include <lockstep/comm/mesh.h>
#include <lockstep/lockstep.h>
#include <lockstep/pipeline/pipeline.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

namespace {

using lockstep::pipeline::Pipeline;
using lockstep::pipeline::PipelineOptions;
using lockstep::pipeline::Plan;

struct Options {
  std::string data;
  std::string schedule = "1f1b";
  std::int64_t microbatches = 8;
  std::int64_t batch = 16;
  std::int64_t block = 64;
  std::int64_t layers = 4;
  std::int64_t width = 64;
  std::int64_t steps = 60;
  std::int64_t replicas = 1;
};

// A stage has its share of the layers; the first one also the embeddings, and the last one the
// head. (A head that is the table of embeddings, as GPT-2's, would lie on two ranks: the gradients
// of such a table are added up over the two after each step, see docs/pipeline.md.)
struct PartImpl : torch::nn::Module {
  PartImpl(const example::GptOptions& options, std::int64_t stage, std::int64_t stages) {
    if (stage == 0) {
      tokens =
          register_module("tokens", torch::nn::Embedding(options.vocabulary(), options.width()));
      places =
          register_module("places", torch::nn::Embedding(options.positions(), options.width()));
    }
    const auto end = options.layers() * (stage + 1) / stages;
    for (auto layer = options.layers() * stage / stages; layer < end; ++layer) {
      blocks->push_back(example::Block(options));
    }
    register_module("blocks", blocks);
    if (stage + 1 == stages) {
      norm = register_module("norm",
                             torch::nn::LayerNorm(torch::nn::LayerNormOptions({options.width()})));
      head = register_module("head", torch::nn::Linear(options.width(), options.vocabulary()));
    }
  }

  torch::Tensor forward(torch::Tensor x) {
    if (tokens) x = tokens(x) + places(torch::arange(x.size(1)));
    for (auto& block : *blocks) x = block->as<example::Block>()->forward(x);
    return head ? head(norm(x)) : x;
  }

  torch::nn::Embedding tokens{nullptr}, places{nullptr};
  torch::nn::ModuleList blocks;
  torch::nn::LayerNorm norm{nullptr};
  torch::nn::Linear head{nullptr};
};
TORCH_MODULE(Part);
using Stage = lockstep::DistributedDataParallel<Part>;

torch::Tensor loss_of(const torch::Tensor& logits, const torch::Tensor& next) {
  return torch::nn::functional::cross_entropy(logits.flatten(0, 1), next.flatten());
}

// The loss comes from the last stage, and the mean is that of all replicas.
double mean_loss(const std::vector<torch::Tensor>& losses, lockstep::Mesh& mesh,
                 bool has_last_stage, int last_rank) {
  auto loss = has_last_stage ? torch::stack(losses).mean() : torch::zeros({});
  mesh.group("stage")->broadcast(loss, last_rank).wait();
  mesh.group("data")->all_reduce(loss, lockstep::ReduceOp::Avg).wait();
  return loss.item<double>();
}

void train(const Options& options, const std::shared_ptr<lockstep::ProcessGroup>& group) {
  at::set_num_threads(1);
  const auto replicas = static_cast<int>(options.replicas);
  TORCH_CHECK_VALUE(group->size() % replicas == 0, "--replicas ", replicas, " does not divide ",
                    group->size(), " ranks");
  lockstep::Mesh mesh(group, {{"stage", group->size() / replicas}, {"data", replicas}});
  const auto& ranks = mesh.group("stage");

  const std::int64_t stages_per_rank =
      options.schedule == "zbv" || options.schedule == "interleaved" ? 2 : 1;
  const auto settings = PipelineOptions()
                            .microbatches(options.microbatches)
                            .schedule(lockstep::pipeline::schedule_named(options.schedule));
  const Plan plan = settings.schedule().plan(ranks->size(), stages_per_rank, options.microbatches);

  const auto model =
      example::GptOptions().layers(options.layers).width(options.width).positions(options.block);
  std::vector<Stage> stages;
  std::vector<torch::Tensor> parameters;
  for (const auto number : plan.stages_of(ranks->rank())) {
    torch::manual_seed(7 + static_cast<std::uint64_t>(number));
    stages.emplace_back(Part(model, number, plan.stages()), mesh.group("data"));
    const auto own = stages.back()->parameters();
    parameters.insert(parameters.end(), own.begin(), own.end());
  }
  Pipeline pipeline(ranks, stages, settings);
  if (group->rank() == 0) std::cout << pipeline.plan() << '\n';

  // All stages of a replica read the same windows: the first one needs them, and the last one what
  // follows.
  const lockstep::data::TokenFile text(
      options.data + "/train.bin",
      lockstep::data::TokenFileOptions().block(options.block).vocabulary(model.vocabulary()));
  lockstep::data::DataLoader<lockstep::data::TokenFile> loader(
      text,
      lockstep::data::DistributedSampler(
          text.size(), replicas, mesh.index("data"),
          lockstep::data::DistributedSamplerOptions().shuffle(true).seed(7)),
      lockstep::data::DataLoaderOptions().batch_size(options.batch).workers(0).drop_last(true));
  torch::optim::AdamW optimizer(parameters, torch::optim::AdamWOptions(1e-3));

  std::int64_t step = 0;
  for (std::int64_t epoch = 0; step < options.steps; ++epoch) {
    loader.set_epoch(epoch);
    TORCH_CHECK_VALUE(loader.size() > 0, "the text is too short for one batch");
    for (auto& batch : loader) {
      if (step == options.steps) break;
      if (step == options.steps / 5) pipeline.reset_statistics();  // the first steps are slower
      optimizer.zero_grad();
      const auto losses = pipeline.step(batch.data, batch.target, loss_of);
      optimizer.step();
      ++step;
      if (step % 10 != 0 && step != options.steps) continue;
      const auto last_rank = static_cast<int>(plan.rank_of(plan.stages() - 1));
      const double loss = mean_loss(losses, mesh, pipeline.has_last_stage(), last_rank);
      if (group->rank() == 0) {
        std::printf("step %lld: loss %.4f\n", static_cast<long long>(step), loss);
      }
    }
  }

  const auto costs = pipeline.measured_costs();
  const auto& statistics = pipeline.statistics();
  if (group->rank() == 0) {
    std::fflush(stdout);
    std::cout << pipeline.plan().simulate(costs) << '\n';
    std::printf("a step took %.2f ms, %.2f ms of them waiting\n",
                1000 * statistics.step_seconds / static_cast<double>(statistics.steps),
                1000 * statistics.waited_seconds / static_cast<double>(statistics.steps));
  }
  pipeline.close();
  mesh.close();
  group->close();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Trains a language model whose layers lie on several ranks.", "pipeline");
  app.option_defaults()->always_capture_default();
  app.add_option("--data", options.data, "Folder with train.bin of text_to_tokens")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--schedule", options.schedule, "Order in which the ranks compute")
      ->check(CLI::IsMember({"gpipe", "1f1b", "interleaved", "zero_bubble", "zbv"}));
  app.add_option("--microbatches", options.microbatches, "Parts of a batch")
      ->check(CLI::Range(1, 10000));
  app.add_option("--batch", options.batch, "Windows of a batch")->check(CLI::Range(1, 100000));
  app.add_option("--block", options.block, "Tokens of a window")->check(CLI::Range(1, 100000));
  app.add_option("--layers", options.layers, "Blocks of the model")->check(CLI::Range(1, 1000));
  app.add_option("--width", options.width, "Columns of the model, a multiple of 4")
      ->check(CLI::Range(4, 100000));
  app.add_option("--steps", options.steps, "Steps of training")->check(CLI::Range(1, 1000000));
  app.add_option("--replicas", options.replicas, "Ranks that have the same stage")
      ->check(CLI::Range(1, 1024));
  return example::run_program(app, argc, argv,
                              [&] { train(options, lockstep::init_process_group()); });
}

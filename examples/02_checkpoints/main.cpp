// SPDX-License-Identifier: BSD-3-Clause
// Trains a small network and saves the run as it goes. Killed at any moment, it goes on from the
// newest checkpoint, and ends with the same bits as a run that nobody killed:
//   checkpoints --folder run                          trains to the end
//   checkpoints --folder other --kill-at 45           kills itself after step 45
//   checkpoints --folder other                        goes on; the last line is the same
//   mpirun -n 2 checkpoints --folder third            the same on two ranks, with other bits
#include "run_program.h"

#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>

namespace {

using namespace lockstep::data;

struct Options {
  std::string folder;
  std::int64_t steps = 100;
  std::int64_t save_every = 10;
  std::int64_t kill_at = 0;
  std::int64_t workers = 2;
};

// Points lie around three centres. What a sample draws depends on its index, the epoch and the
// seed.
struct Points {
  torch::data::Example<> get(std::size_t index) {
    const auto label = static_cast<std::int64_t>(index % 3);
    const auto angle = torch::tensor({0.0F, 1.57F}) + 2.09F * static_cast<float>(label);
    return {torch::sin(angle) + 0.4 * torch::randn({2}), torch::tensor(label)};
  }
  std::size_t size() const { return 400; }
};

torch::nn::Sequential make_net() {
  return torch::nn::Sequential(torch::nn::Linear(2, 32), torch::nn::ReLU(), torch::nn::Dropout(0.2),
                               torch::nn::Linear(32, 3));
}

// A few digits that differ if any bit of the parameters does (FNV-1a).
std::uint64_t digest_of(const torch::nn::Module& net) {
  std::uint64_t digest = 0xcbf29ce484222325;
  for (const auto& parameter : net.parameters()) {
    const auto values = parameter.detach().contiguous();
    const auto* bytes = static_cast<const std::uint8_t*>(values.const_data_ptr());
    for (std::size_t i = 0; i < values.nbytes(); ++i) digest = (digest ^ bytes[i]) * 0x100000001b3;
  }
  return digest;
}

void run(const Options& options) {
  auto group = lockstep::init_process_group();  // any launcher, or alone
  torch::manual_seed(7);
  at::set_num_threads(1);  // for so small a network

  DataLoader loader(Points(),
                    DistributedSampler(Points().size(), group->size(), group->rank(),
                                       DistributedSamplerOptions().shuffle(true).seed(7)),
                    DataLoaderOptions().batch_size(10).workers(options.workers).seed(7));
  auto net = make_net();
  lockstep::DistributedDataParallel<torch::nn::Sequential> model(net, group);
  torch::optim::Adam optimizer(model->parameters(), torch::optim::AdamOptions(0.01));

  // The state of a run: whatever later steps depend on. The object refers to the parts.
  std::int64_t step = 0;
  std::int64_t epoch = 0;
  lockstep::training::TrainingState state;
  state.add("model", net)
      .add("optimizer", optimizer)
      .add("loader", loader)  // how far the epoch is
      .add("step", step)
      .add("epoch", epoch)
      .add_random_state();  // of dropout; last, so that it is loaded last
  lockstep::training::Checkpointer checkpointer(
      group, options.folder,
      lockstep::training::CheckpointerOptions().every_steps(options.save_every).keep_last(2));

  // Nothing is found in the first life of a run.
  const auto found = checkpointer.load_latest(state);
  bool is_resumed = found.has_value();
  if (is_resumed && group->rank() == 0) std::cout << "resumed at step " << found->step << std::endl;

  for (; step < options.steps; ++epoch) {
    // A loader that was loaded goes on in the middle of its epoch.
    if (!is_resumed) loader.set_epoch(epoch);
    is_resumed = false;
    for (auto& batch : loader) {
      optimizer.zero_grad();
      const auto scores = model->forward_as<torch::Tensor>(batch.data);
      torch::nn::functional::cross_entropy(scores, batch.target).backward();
      optimizer.step();
      ++step;
      checkpointer.after_step(state, step);  // a copy; a thread writes it while training goes on
      if (step == options.kill_at) std::raise(SIGKILL);
      if (step == options.steps) break;
    }
  }
  checkpointer.wait();  // throws if a checkpoint could not be saved
  if (group->rank() == 0) {
    std::printf("step %lld: digest %016llx\n", static_cast<long long>(step),
                static_cast<unsigned long long>(digest_of(*net)));
  }
  group->close();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Trains a small network, and goes on where it was killed.", "checkpoints");
  app.option_defaults()->always_capture_default();
  app.add_option("--folder", options.folder, "Folder of the checkpoints, which all ranks see")
      ->required()
      ->type_name("FOLDER");
  app.add_option("--steps", options.steps, "Steps of the whole run")->check(CLI::Range(1, 1000000));
  app.add_option("--save-every", options.save_every, "Saves after every so many steps")
      ->check(CLI::Range(1, 1000000));
  app.add_option("--kill-at", options.kill_at, "Kills itself after this step; 0: never")
      ->check(CLI::Range(0, 1000000));
  app.add_option("--workers", options.workers, "Processes a rank that make samples; 0: none")
      ->check(CLI::Range(0, 1024));
  return example::run_program(app, argc, argv, [&] { run(options); });
}

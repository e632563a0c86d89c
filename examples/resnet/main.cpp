// SPDX-License-Identifier: BSD-3-Clause
// Trains a residual network on all ranks in step. Read `train` first; the other files hold its
// parts.
#include "checkpoints.h"
#include "datasets.h"
#include "errors.h"
#include "evaluation.h"
#include "launch.h"
#include "learning_rate.h"
#include "options.h"
#include "resnet.h"
#include "start.h"
#include "weights.h"

#include <lockstep/data/loader/device_prefetcher.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace example {
namespace {

namespace functional = torch::nn::functional;
using lockstep::data::DataLoaderOptions;
using lockstep::data::DevicePrefetcher;
using lockstep::data::DistributedSampler;
using lockstep::data::DistributedSamplerOptions;
using lockstep::data::Remainder;
using lockstep::training::Progress;
using lockstep::training::ProgressOptions;
using lockstep::training::ProgressValues;
using Loader = lockstep::data::DataLoader<ImageDataset>;
using Model = lockstep::DistributedDataParallel<ResNet>;

Loader make_train_loader(const Datasets& images, const Options& options,
                         const lockstep::ProcessGroup& group, c10::Device device) {
  // Only full batches: batch norm cannot work with a single left-over image.
  Loader loader(
      images.train,
      DistributedSampler(
          static_cast<std::size_t>(images.train_size), group.size(), group.rank(),
          DistributedSamplerOptions().shuffle(true).seed(options.seed).remainder(Remainder::Drop)),
      DataLoaderOptions()
          .batch_size(options.batch_size)
          .workers(options.workers)
          .seed(options.seed)  // of what augmentation draws
          .drop_last(true)
          .pin_memory(device.is_cuda()));
  TORCH_CHECK_VALUE(loader.size() > 0, images.train_size,
                    " training images do not fill a batch of ", options.batch_size, " on each of ",
                    group.size(), " ranks");
  return loader;
}

Loader make_test_loader(const Datasets& images, const Options& options,
                        const lockstep::ProcessGroup& group) {
  return Loader(
      images.test,
      DistributedSampler(static_cast<std::size_t>(images.test_size), group.size(), group.rank(),
                         DistributedSamplerOptions().shuffle(false).remainder(Remainder::Exact)),
      DataLoaderOptions().batch_size(options.batch_size).workers(options.workers));
}

void fail_if_asked_to(const Options& options, int rank, int64_t step) {
  if (options.fail_at == step && options.fail_rank == rank) {
    throw std::runtime_error("fails in step " + std::to_string(step) + ", as --fail-at asks");
  }
}

void check_loss(double loss, int64_t step) {
  if (std::isfinite(loss)) return;
  throw std::runtime_error("the loss became " + std::to_string(loss) + " in step " +
                           std::to_string(step) + "; try a smaller --lr or a longer --warmup");
}

struct Trainer {
  const Options& options;
  lockstep::ProcessGroup& group;
  c10::Device device;
  Model& model;
  torch::optim::Optimizer& optimizer;
  lockstep::optim::lr_scheduler::LambdaLR& schedule;
  Checkpoints& checkpoints;
  int64_t step = 0;  // counts on from epoch to epoch
  bool is_stopped = false;

  // One pass over this rank's share of the images, or what is left of it.
  Results run_epoch(Loader& loader, Progress& progress) {
    const auto loss_options =
        functional::CrossEntropyFuncOptions().label_smoothing(options.label_smoothing);
    Results results;
    for (auto& batch : DevicePrefetcher(loader, device)) {
      fail_if_asked_to(options, group.rank(), step);
      optimizer.zero_grad();
      const auto scores = model->forward(batch.data);
      const auto loss = functional::cross_entropy(scores, batch.target, loss_options);
      check_loss(loss.item<double>(), step);
      loss.backward();  // the gradients of all ranks are averaged here
      optimizer.step();
      schedule.step();
      results.add(loss.item<double>(), scores, batch.target);
      // As if all ranks had seen what this one has.
      progress.step(batch.target.size(0) * group.size(), [&] {
        return ProgressValues{{"loss", results.loss.compute()},
                              {"accuracy", results.accuracy.compute()}};
      });
      ++step;
      is_stopped = checkpoints.after_step(step);
      if (is_stopped) break;
    }
    return results;
  }
};

/// Returns the exit code.
int train(const Options& options, std::chrono::steady_clock::time_point start) {
  const auto group =
      lockstep::init_process_group(lockstep::ProcessGroupOptions()
                                       .backend(options.backend)
                                       .timeout(std::chrono::seconds(options.timeout_seconds)));
  const auto device = lockstep::bind_device(*group);
  use_threads(options.threads, *group);
  torch::manual_seed(options.seed);

  const auto images = together(*group, [&] { return open_datasets(options); });
  auto train_loader =
      together(*group, [&] { return make_train_loader(images, options, *group, device); });
  auto test_loader = together(*group, [&] { return make_test_loader(images, options, *group); });

  ResNet net(ResNetOptions(options.arch).in_channels(images.channels).num_classes(images.classes));
  if (!options.weights.empty()) {
    static_cast<void>(together(*group, [&] { return load_resnet(net, options.weights); }));
  }
  net->to(device);
  Model model(net, group);
  lockstep::optim::SGD optimizer(model->parameters(),
                                 lockstep::optim::SGDOptions(options.learning_rate)
                                     .momentum(options.momentum)
                                     .nesterov(options.momentum > 0)
                                     .weight_decay(options.weight_decay));

  const auto steps_an_epoch = static_cast<int64_t>(train_loader.size());
  Checkpoints checkpoints({options.checkpoints, options.checkpoint_every, options.resume}, group);
  const auto warmup = options.warmup_epochs * static_cast<double>(steps_an_epoch);
  auto schedule = make_schedule(optimizer, std::llround(warmup), options.epochs * steps_an_epoch);
  Trainer trainer{options, *group, device, model, optimizer, schedule, checkpoints};
  int64_t epoch = 0;
  checkpoints.state()
      .add("model", net)
      .add("optimizer", optimizer)
      .add("schedule", schedule)
      .add("ddp", model)
      .add("loader", train_loader)
      .add("step", trainer.step)
      .add("epoch", epoch)
      .add_random_state()
      .require("arch", options.arch);
  bool is_resumed = checkpoints.resume();
  Progress progress(std::cout, ProgressOptions()
                                   .style(progress_style(options.progress, group->rank()))
                                   .epochs(options.epochs)
                                   .steps_per_epoch(steps_an_epoch));
  double accuracy = 0;
  for (; epoch < options.epochs; ++epoch) {
    if (!std::exchange(is_resumed, false)) train_loader.set_epoch(epoch);
    progress.begin_epoch(epoch, steps_an_epoch - static_cast<int64_t>(train_loader.size()));
    net->train();
    const auto own_share = trainer.run_epoch(train_loader, progress);
    if (trainer.is_stopped) {
      group->close();
      return kStoppedExitCode;
    }
    const auto trained = over_all_ranks(own_share, *group);

    model->broadcast_buffers();  // batch norm's statistics are each rank's own until here
    const auto tested = over_all_ranks(evaluate(net, test_loader, device), *group);
    accuracy = tested.accuracy.compute();
    progress.end_epoch({{"loss", trained.loss.compute()},
                        {"accuracy", trained.accuracy.compute()},
                        {"test loss", tested.loss.compute()},
                        {"test accuracy", accuracy}});
  }
  if (group->rank() == 0 && !options.save.empty())
    lockstep::training::save_state(net, options.save);
  checkpoints.finish();
  group->close();

  if (group->rank() == 0) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("result: accuracy=%.4f samples_per_second=%.0f seconds=%.0f ranks=%d arch=%s\n",
                accuracy, progress.samples_per_second(), seconds.count(), group->size(),
                options.arch.c_str());
  }
  return 0;
}

}  // namespace
}  // namespace example

int main(int argc, char** argv) {
  const auto start = std::chrono::steady_clock::now();
  return example::exit_code_of("resnet", [&] {
    const auto launch = lockstep::LaunchEnvironment::detect();
    const auto parsed = example::check_launch(example::parse_options(argc, argv), launch);
    if (!parsed.options) return example::print_text(parsed.text, parsed.exit_code, launch);
    return example::train(*parsed.options, start);
  });
}

// SPDX-License-Identifier: BSD-3-Clause
// Trains a small network on a folder of JPEG files, on all ranks in step, and shows what the loader
// does:
//   data_loader                                  draws its pictures into a temporary folder
//   mpirun -n 2 data_loader --folder pictures    into one that stays; your own does as well
#include "picture_folder.h"
#include "run_program.h"

#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace {

using namespace lockstep::data;
using Loader = DataLoader<ImageFolder>;

struct Options {
  std::string folder;
  int pictures = 40;  // of each class
  int epochs = 3;
  std::int64_t batch_size = 8;
  std::int64_t workers = 2;
};

// Samples stay bytes on their way through the workers, a quarter of what floats take; the network
// makes floats of them, on its device. (A pipeline that ends in `Normalize` gives floats.)
ImageFolder open_pictures(const std::string& folder) {
  constexpr std::int64_t kSide = 64;
  const auto most_of_it = RandomResizedCropOptions().scale({0.4, 1.0});
  return ImageFolder(folder,
                     ImagePipeline(RandomResizedCrop(kSide, most_of_it), RandomHorizontalFlip()));
}

Loader make_loader(const ImageFolder& pictures, const lockstep::ProcessGroup& group,
                   std::int64_t batch_size, std::int64_t workers) {
  return Loader(
      pictures,
      DistributedSampler(pictures.size(), group.size(), group.rank(),
                         DistributedSamplerOptions().shuffle(true).seed(7)),
      DataLoaderOptions().batch_size(batch_size).workers(workers).seed(7));  // of crops and flips
}

struct NetImpl : torch::nn::Module {
  explicit NetImpl(std::int64_t classes)
      : output(register_module("output", torch::nn::Linear(32, classes))) {}

  torch::Tensor forward(const torch::Tensor& bytes) {
    auto x = (bytes.to(torch::kFloat) - 127.5) / 63.75;
    x = torch::relu(conv1(x));
    x = torch::relu(conv2(x));
    return output(x.mean({2, 3}));
  }

  torch::nn::Conv2d conv1 =
      register_module("conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 16, 5).stride(2)));
  torch::nn::Conv2d conv2 =
      register_module("conv2", torch::nn::Conv2d(torch::nn::Conv2dOptions(16, 32, 5).stride(2)));
  torch::nn::Linear output;
};
TORCH_MODULE(Net);

void train(Loader& loader, const Options& options, std::shared_ptr<lockstep::ProcessGroup> group) {
  const auto device = lockstep::bind_device(*group);
  torch::manual_seed(7);
  Net net(static_cast<std::int64_t>(loader.dataset().classes().size()));
  net->to(device);
  lockstep::DistributedDataParallel<Net> model(net, group);
  torch::optim::Adam optimizer(model->parameters(), torch::optim::AdamOptions(0.003));

  for (int epoch = 0; epoch < options.epochs; ++epoch) {
    const auto start = std::chrono::steady_clock::now();
    loader.set_epoch(epoch);                        // another order, other crops
    auto sums = torch::zeros({3}, torch::kDouble);  // loss, right answers, samples
    for (auto& batch : loader) {
      const auto target = batch.target.to(device);
      optimizer.zero_grad();
      const auto scores = model->forward(batch.data.to(device));
      const auto loss = torch::nn::functional::cross_entropy(scores, target);
      loss.backward();
      optimizer.step();
      const auto samples = static_cast<double>(target.size(0));
      sums += torch::tensor({loss.item<double>() * samples,
                             scores.argmax(1).eq(target).sum().item<double>(), samples},
                            torch::kDouble);
    }
    group->all_reduce(sums).wait();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const auto samples = sums[2].item<double>();
    if (group->rank() == 0) {
      std::printf("epoch %d: loss %.4f, accuracy %.4f, %.0f samples/s\n", epoch + 1,
                  sums[0].item<double>() / samples, sums[1].item<double>() / samples,
                  samples / seconds.count());
    }
  }
}

// What held up this rank: the network, or which part of the loader.
void show_statistics(const Loader& loader) {
  const LoaderStatistics statistics = loader.statistics();
  std::printf("loader: %llu samples in %llu batches, waited %.3f s of %.3f s, %llu restarts\n",
              static_cast<unsigned long long>(statistics.samples),
              static_cast<unsigned long long>(statistics.batches), statistics.stall_seconds,
              statistics.seconds, static_cast<unsigned long long>(statistics.restarts));
  std::printf("bottleneck: %s\n", statistics.bottleneck().c_str());
}

// A place within an epoch is one line of text, for a checkpoint. Whoever loads it goes on with the
// next batch, with other workers, or in a world of another size.
void break_off_and_go_on(Loader& loader, const lockstep::ProcessGroup& group,
                         const Options& options) {
  if (loader.size() < 2) return;  // nothing to go on with
  loader.set_epoch(options.epochs);
  auto here = loader.begin();
  static_cast<void>(*here);
  const std::string saved = loader.state().to_bytes();
  ++here;

  auto other = make_loader(loader.dataset(), group, options.batch_size, /*workers=*/0);
  other.load_state(LoaderState::from_bytes(saved));
  auto there = other.begin();
  const bool same =
      torch::equal(here->data, there->data) && torch::equal(here->target, there->target);
  if (group.rank() != 0) return;
  std::printf("state: %s\nresumed: the next batch is %s\n", saved.c_str(),
              same ? "the same, bit for bit" : "another one");
}

void run(const Options& options) {
  auto group = lockstep::init_process_group();  // any launcher, or alone
  at::set_num_threads(1);  // for so small a network; the other cores are for the workers
  const PictureFolder folder(*group, options.folder, options.pictures);
  const auto pictures = open_pictures(folder.path());
  if (group->rank() == 0) {
    std::printf("pictures: %zu of %zu classes in %s\n", pictures.size(), pictures.classes().size(),
                folder.path().c_str());
  }
  if (options.epochs > 0) {
    auto loader = make_loader(pictures, *group, options.batch_size, options.workers);
    train(loader, options, group);
    if (group->rank() == 0) show_statistics(loader);
    break_off_and_go_on(loader, *group, options);
  }
  group->close();  // all ranks have read what they need; only now may rank 0 remove the pictures
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Trains a small network on a folder of JPEG files.", "data_loader");
  app.option_defaults()->always_capture_default();
  app.add_option("--folder", options.folder,
                 "Folder with one folder a class; drawn when missing or empty")
      ->type_name("FOLDER");
  app.add_option("--pictures", options.pictures, "Pictures of each class to draw")
      ->check(CLI::Range(1, 100000));
  app.add_option("--epochs", options.epochs, "Passes over the pictures; 0 only draws them")
      ->check(CLI::Range(0, 100000));
  app.add_option("--batch-size", options.batch_size, "Pictures a step on each rank")
      ->check(CLI::Range(1, 100000));
  app.add_option("--workers", options.workers, "Processes a rank that decode; 0: none")
      ->check(CLI::Range(0, 1024));
  return example::run_program(app, argc, argv, [&] { run(options); });
}

// SPDX-License-Identifier: BSD-3-Clause
//
// One rank of the C++ side of the ddp_step benchmark; ddp_step_driver.py starts it and reads its
// figures.

#include <malloc.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>

#include "lockstep_step.h"
#if LOCKSTEP_HAS_MPI
#include "plain_mpi.h"
#endif

namespace {

using Variants = std::map<std::string, std::function<void(const bench::Settings&)>>;

// What Lockstep's DDP tells glibc by default (option retain_freed_memory), for the variants that
// show what a program gains from that alone: blocks up to 32 MiB come from the heap, and the heap
// never shrinks.
void retain_freed_memory() {
  if (mallopt(M_MMAP_THRESHOLD, 32 << 20) != 1 || mallopt(M_TRIM_THRESHOLD, -1) != 1) {
    throw std::runtime_error("this C library has no malloc thresholds to set");
  }
}

Variants make_variants() {
  Variants variants {
    {"lockstep", bench::run_lockstep}, {"lockstep_alone", bench::run_alone},
#if LOCKSTEP_HAS_MPI
        {"plain_mpi", bench::run_plain_mpi},
#endif
  };
  for (const std::string name : {"lockstep_alone", "plain_mpi"}) {
    const auto plain = variants.find(name);
    if (plain == variants.end()) continue;
    variants[name + "_retained"] = [run = plain->second](const bench::Settings& settings) {
      retain_freed_memory();
      run(settings);
    };
  }
  return variants;
}

// One `name value` a line, for the record.
void describe() {
  std::cout << "torch " << TORCH_VERSION << '\n';
#if LOCKSTEP_HAS_MPI
  std::cout << "mpi " << bench::mpi_version() << '\n';
#endif
}

}  // namespace

int main(int argc, char** argv) {
  const auto variants = make_variants();
  bench::Settings settings;
  CLI::App app("One rank of the ddp_step benchmark");
  bool wants_description = false;
  app.add_flag("--describe", wants_description, "Print the versions in use and stop");
  app.add_option("--variant", settings.variant, "What to run")->check(CLI::IsMember(&variants));
  app.add_option("--arch", settings.arch, "resnet18, resnet34, resnet50 or transformer");
  app.add_option("--bucket-cap-mib", settings.bucket_cap_mib, "Of Lockstep's buckets; 0: default");
  app.add_option("--tune-after", settings.tune_after, "Lockstep's tune_buckets_after");
  app.add_option("--hook", settings.hook, "Lockstep's communication hook")
      ->check(CLI::IsMember(bench::hook_names()));
  app.add_option("--images", settings.images, "Folder of Fashion-MNIST to train on")
      ->check(CLI::ExistingDirectory);
  app.add_option("--learning-rate", settings.learning_rate, "Of SGD with momentum")
      ->check(CLI::PositiveNumber);
  app.add_option("--seed", settings.seed, "Of the model and of the order of images");
  app.add_option("--batch", settings.batch, "Images a rank and step")->check(CLI::PositiveNumber);
  app.add_option("--warmup", settings.warmup, "Steps before the timed ones")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--steps", settings.steps, "Timed steps")->check(CLI::PositiveNumber);
  app.add_option("--accumulate", settings.accumulate, "Backwards a step")
      ->check(CLI::PositiveNumber);
  app.add_flag("--overlap", settings.overlap, "Also profile some steps of Lockstep's side");
  app.add_option("--interface", settings.interface, "Network interface whose bytes are counted");
  app.add_option("--output", settings.output, "Folder for the figures")
      ->check(CLI::ExistingDirectory);
  try {
    app.parse(argc, argv);
    if (wants_description) {
      describe();
      return EXIT_SUCCESS;
    }
    if (settings.variant.empty() || settings.output.empty()) {
      throw CLI::RequiredError("--variant and --output");
    }
    torch::set_num_threads(1);
    variants.at(settings.variant)(settings);
    return EXIT_SUCCESS;
  } catch (const CLI::Error& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : 2;
  } catch (const std::exception& error) {
    std::cerr << "ddp_step: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "start.h"

#include <lockstep/lockstep.h>

#include <cstdint>
#include <optional>
#include <string>

namespace example {

/// Where progress goes: a bar that redraws itself, plain lines, or whichever fits stdout and
/// stderr.
enum class ProgressStyle { Auto, Bar, Lines };

/// The command line, checked. The defaults reach 0.9 on Fashion-MNIST within five minutes on two
/// cores.
struct Options {
  std::string dataset = "fashion-mnist";
  std::string data = "/usr/share/datasets/fashion-mnist";
  std::optional<int64_t> limit;  // of training images, and of test images
  int64_t image_size = 28;       // synthetic; of an image folder 224, where nothing else is said
  int64_t channels = 1;          // synthetic only, as the next
  int64_t classes = 10;

  std::string arch = "resnet8";  // of an image folder resnet18, where nothing else is said
  int epochs = 4;
  int64_t batch_size = 64;  // a rank
  double learning_rate = 0.4;
  double warmup_epochs = 0.8;
  double momentum = 0.9;
  double weight_decay = 5e-4;
  double label_smoothing = 0.05;
  std::uint64_t seed = 7;

  std::string weights;             // to begin with; empty: drawn by the seed
  std::string save;                // where the weights go at the end; empty: nowhere
  std::string checkpoints;         // a folder; empty: none are saved
  int64_t checkpoint_every = 100;  // steps
  bool resume = false;

  lockstep::Backend backend = lockstep::Backend::Auto;
  int timeout_seconds = 60;
  int threads = 0;  // 0: this host's cores, shared among its ranks
  int workers = 1;
  ProgressStyle progress = ProgressStyle::Auto;

  std::optional<int64_t> fail_at;  // a test's wish: rank `fail_rank` throws in this step
  int fail_rank = 0;
};

/// Options to train with, or what to print and the exit code to leave with.
struct ParsedOptions {
  std::optional<Options> options;
  std::string text;  // ends in a line break
  int exit_code = 0;
};

/// Reads the command line. `--help` gives exit code 0 and the help; a mistake gives exit code 2 and
/// one line.
[[nodiscard]] ParsedOptions parse_options(int argc, const char* const* argv);

}  // namespace example

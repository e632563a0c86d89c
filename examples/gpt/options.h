// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "gpt.h"
#include "recipe.h"

#include <lockstep/lockstep.h>

#include <cstdint>
#include <optional>
#include <string>

namespace example {

/// The command line, checked. With the defaults, two cores learn to write verses in a few minutes.
struct Options {
  std::string data;  // folder with train.bin and val.bin
  int64_t block = 128;
  int64_t validation_windows = 512;

  GptOptions model;              // where no file of weights says otherwise
  std::optional<int64_t> heads;  // as given: a file of weights does not tell them
  std::string weights;           // to begin with; empty: drawn by the seed

  Recipe recipe;
  int64_t batch_size = 16;  // windows a rank and backward
  int64_t accumulate = 1;   // backwards a step
  double average = 0.99;    // share of the average that stays in a step; 0: no average
  bool bf16 = false;
  std::uint64_t seed = 7;

  int64_t report_every = 250;  // steps
  int64_t sample = 200;        // bytes of a sample; 0: none
  std::string prompt = "And ";
  std::string tensorboard;         // a folder; empty: none
  std::string run_log;             // a file of lines; empty: none
  std::string save;                // where the weights go at the end; empty: nowhere
  std::string checkpoints;         // a folder; empty: none are saved
  int64_t checkpoint_every = 100;  // steps
  bool resume = false;

  lockstep::Backend backend = lockstep::Backend::Auto;
  int timeout_seconds = 60;
  int threads = 0;  // 0: this host's cores, shared among its ranks
  int workers = 1;

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

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <torch/csrc/autograd/function.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace lockstep {

/// Counts the samples that a rank's gradients come from: those of the forwards that its backwards
/// go through.
///
/// A forward that threw, or whose outputs no backward reaches, counts nothing. A forward counts
/// once in an average, however many backwards go through it. A forward whose outputs show no tensor
/// that could be watched counts for the next backward. Thread-safety: guarded by the reducer's
/// lock.
class SampleCount {
 public:
  struct Forward {
    std::optional<std::int64_t> samples;  // empty where forward's arguments do not show them
    bool has_returned = false;
    bool shows_outputs = false;
    std::uint64_t counted_in = 0;  // the number of an average
  };
  /// One output of a forward. The hook on the output keeps it, so that it ends with the graph.
  struct Output {
    std::shared_ptr<Forward> forward;
    const torch::autograd::Node* node = nullptr;
    int reached_in = -1;  // the number of a graph that runs
  };

  // --- forwards ---
  void begin_forward(std::optional<std::int64_t> samples);
  void end_forward();
  /// The latest forward has this output.
  void show(const at::Tensor& output);
  /// The latest forward has this output, on which there will be a hook.
  [[nodiscard]] std::shared_ptr<Output> watch(const at::Tensor& output);
  /// Whether there is a forward that the next backward is taken to go through.
  [[nodiscard]] bool has_hidden() const;

  // --- backwards ---
  /// The graph that is being worked on goes through this output.
  static void note_reached(Output& output);
  /// Counts the forwards that the graph that is being worked on goes through.
  void count();
  [[nodiscard]] bool has_counted(const Output& output) const {
    return output.forward->counted_in == average_;
  }
  /// The program says how many samples there are; what forwards show does not count until the next
  /// average.
  void say(std::int64_t samples);
  /// How many samples were counted since the last average; empty where that is not known.
  [[nodiscard]] std::optional<std::int64_t> total();
  /// What this rank's gradients count in an average: `total`, or 1 where samples do not matter.
  /// Throws: `c10::Error` where samples matter and are not known.
  [[nodiscard]] std::int64_t weight(GradientAveraging averaging);
  /// Begins anew after an average.
  void clear();
  /// Begins anew after a backward that threw: what the program said stays.
  void forget_counted();
  /// Forgets what the program said for that backward, but not what it has said since.
  void forget_said();

 private:
  void keep_hidden();
  [[nodiscard]] static bool is_hidden(const Forward& forward) {
    return forward.has_returned && !forward.shows_outputs;
  }
  void add(const std::shared_ptr<Forward>& forward);
  template <typename T>
  void append(std::vector<std::weak_ptr<T>>& list, const std::shared_ptr<T>& item);

  std::shared_ptr<Forward> latest_;
  std::vector<std::shared_ptr<Forward>> hidden_;
  std::vector<std::weak_ptr<Output>> outputs_;
  // Since the last average:
  std::vector<std::weak_ptr<Forward>> counted_;
  bool has_counted_any_ = false;
  bool is_known_ = true;
  std::int64_t sum_ = 0;
  std::optional<std::int64_t> said_;
  bool is_said_anew_ = false;  // no backward has asked for it yet
  std::uint64_t average_ = 1;
};

}  // namespace lockstep

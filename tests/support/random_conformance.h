// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdlib>
#include <deque>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "support/collective_conformance.h"

// Calls that nobody thought of: collectives, dtypes, lengths and roots drawn from a seed, several
// under way at once and waited for in any order, on ordinary and on registered memory.
namespace lockstep::testing {

/// `LOCKSTEP_TEST_SEED` repeats a run; without it rank 0 draws one, which a failure prints.
inline std::uint64_t draw_seed(ProcessGroup& group) {
  const char* wanted = std::getenv("LOCKSTEP_TEST_SEED");
  const auto seed = torch::empty({1}, torch::kLong);
  seed[0] = wanted != nullptr ? std::atoll(wanted)
                              : static_cast<std::int64_t>(std::random_device()() & 0x7fffffff);
  group.broadcast(seed).wait();
  return static_cast<std::uint64_t>(seed.item<std::int64_t>());
}

class RandomCalls {
 public:
  RandomCalls(ProcessGroup& group, std::uint64_t seed) : group_(group), draw_(seed) {
    memory_ = group_.allocate({1 << 18}, torch::kByte);
  }

  /// Makes `count` calls; the same ones on all ranks, because the seed is the same.
  void run(int count) {
    for (int call = 0; call < count; ++call) {
      if (pending_.size() >= 4) finish_one();
      start_one(call);
    }
    while (!pending_.empty()) finish_one();
  }

 private:
  struct Pending {
    Work work;
    std::function<void()> check;
    bool is_registered;
  };

  int number(int below) { return static_cast<int>(draw_() % static_cast<unsigned>(below)); }

  std::int64_t length() {
    static const std::vector<int> limits{1, 4, 100, 3000, 70000};
    return number(limits[static_cast<std::size_t>(number(5))]);
  }

  at::ScalarType dtype() {
    return kDtypes[static_cast<std::size_t>(number(static_cast<int>(kDtypes.size())))];
  }

  /// Every fourth time in the group's memory, on all ranks alike; one call uses it at a time.
  torch::Tensor place(const torch::Tensor& values) {
    const bool is_wanted = number(4) == 0;
    const auto bytes = static_cast<std::int64_t>(values.nbytes());
    in_memory_ = is_wanted && bytes > 0 && bytes <= memory_.numel();
    if (!in_memory_) return values;
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      if (pending_[i].is_registered) {
        finish(i);
        break;
      }
    }
    return memory_.slice(0, 0, bytes).view(values.scalar_type()).view(values.sizes()).copy_(values);
  }

  void keep(Work work, std::function<void()> check) {
    pending_.push_back({std::move(work), std::move(check), in_memory_});
  }

  // In any order: ranks need not agree on it.
  void finish_one() { finish(static_cast<std::size_t>(own_draw_() % pending_.size())); }

  void finish(std::size_t index) {
    Pending pending = pending_[index];
    pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(index));
    pending.work.wait();
    pending.check();
  }

  void start_one(int call) {
    const auto what = "call " + std::to_string(call);
    switch (number(6)) {
      case 0:
      case 1:
        return start_reduction(what);
      case 2:
        return start_broadcast(what);
      case 3:
        return start_all_gather(what);
      case 4:
        return start_reduce_scatter(what);
      default:
        return start_all_to_all(what);
    }
  }

  ReduceOp reduction(at::ScalarType dtype) {
    while (true) {
      const ReduceOp op =
          kReductions[static_cast<std::size_t>(number(static_cast<int>(kReductions.size())))];
      // Of complex numbers, PyTorch's product rounds otherwise; check_all_reduce has it.
      const bool is_complex_product =
          c10::isComplexType(dtype) && op.kind() == ReduceOp::Kind::Product;
      if (is_supported(dtype, op) && !is_complex_product) return op;
    }
  }

  void start_reduction(const std::string& what) {
    const auto type = dtype();
    const auto op = reduction(type);
    const auto elements = length();
    const int root = number(group_.size() + 1) - 1;  // -1: all ranks
    const auto own = values_of_rank(group_.rank(), elements, type);
    const auto tensor = place(own.clone());
    const bool is_taker = root < 0 || root == group_.rank();
    keep(root < 0 ? group_.all_reduce(tensor, op) : group_.reduce(tensor, root, op), [=, this] {
      expect_same_bits(tensor,
                       is_taker ? expected_reduction(group_.size(), elements, type, op) : own,
                       what + ": " + text_of("reduction", op, elements, type));
    });
  }

  void start_broadcast(const std::string& what) {
    const auto type = dtype();
    const auto elements = length();
    const int root = number(group_.size());
    const auto tensor = place(values_of_rank(group_.rank(), elements, type));
    keep(group_.broadcast(tensor, root), [=] {
      expect_same_bits(tensor, values_of_rank(root, elements, type), what + ": broadcast");
    });
  }

  void start_all_gather(const std::string& what) {
    const auto type = dtype();
    const auto base = length();
    const int step = number(3);  // 0: equal pieces
    std::vector<torch::Tensor> outputs;
    for (int rank = 0; rank < group_.size(); ++rank) {
      outputs.push_back(torch::zeros({base + rank * step}, type));
    }
    const auto own = base + group_.rank() * step;
    keep(group_.all_gather(outputs, place(values_of_rank(group_.rank(), own, type))), [=, this] {
      for (int rank = 0; rank < group_.size(); ++rank) {
        expect_same_bits(outputs[static_cast<std::size_t>(rank)],
                         values_of_rank(rank, base + rank * step, type), what + ": all_gather");
      }
    });
  }

  void start_reduce_scatter(const std::string& what) {
    const auto type = dtype();
    const auto op = reduction(type);
    const auto elements = length();
    const auto input = place(values_of_rank(group_.rank(), elements * group_.size(), type));
    const auto output = torch::zeros({elements}, type);
    keep(group_.reduce_scatter(output, input, op), [=, this] {
      const auto all = expected_reduction(group_.size(), elements * group_.size(), type, op);
      expect_same_bits(output,
                       all.slice(0, elements * group_.rank(), elements * (group_.rank() + 1)),
                       what + ": " + text_of("reduce_scatter", op, elements, type));
    });
  }

  void start_all_to_all(const std::string& what) {
    const auto type = dtype();
    const auto elements = length();
    const auto input = place(values_of_rank(group_.rank(), elements * group_.size(), type));
    const auto output = torch::zeros({elements * group_.size()}, type);
    keep(group_.all_to_all(output, input), [=, this] {
      for (int rank = 0; rank < group_.size(); ++rank) {
        const auto sent = values_of_rank(rank, elements * group_.size(), type);
        expect_same_bits(output.slice(0, elements * rank, elements * (rank + 1)),
                         sent.slice(0, elements * group_.rank(), elements * (group_.rank() + 1)),
                         what + ": all_to_all");
      }
    });
  }

  ProcessGroup& group_;
  std::mt19937_64 draw_;
  std::mt19937_64 own_draw_{std::random_device()()};
  torch::Tensor memory_;
  std::deque<Pending> pending_;
  bool in_memory_ = false;
};

inline void check_random_calls(ProcessGroup& group, int count) {
  const auto seed = draw_seed(group);
  SCOPED_TRACE("repeat with LOCKSTEP_TEST_SEED=" + std::to_string(seed));
  RandomCalls(group, seed).run(count);
}

}  // namespace lockstep::testing

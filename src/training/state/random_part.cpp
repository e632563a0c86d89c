// SPDX-License-Identifier: BSD-3-Clause
#include "training/state/random_part.h"

#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <mutex>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "training/ambient/ambient_state.h"

namespace lockstep::training {
namespace {

using Generators = std::vector<std::pair<at::Generator, at::Tensor>>;

/// "cpu", "cuda:0"
std::string name_of(const at::Generator& generator) {
  return generator.device().is_cpu() ? "cpu" : generator.device().str();
}

PartState current() {
  PartState state;
  const RandomState now = RandomState::current();
  for (const auto& [generator, tensor] : now.generators()) {
    state.tensors.emplace(name_of(generator), tensor.clone());
  }
  return state;
}

/// `set` for each generator of this process that has a state there.
std::function<void()> for_each(PartState saved,
                               const std::function<void(at::Generator&, const at::Tensor&)>& set) {
  const Generators own = RandomState::current().generators();
  for (const auto& [name, tensor] : saved.tensors) {
    const bool is_here = std::any_of(own.begin(), own.end(),
                                     [&](const auto& one) { return name_of(one.first) == name; });
    if (!is_here) {
      logging::warning("the checkpoint has a random state of " + name +
                       ", which this process does not use (yet); it is not loaded");
    }
  }
  for (const auto& [generator, tensor] : own) {
    const auto found = saved.tensors.find(name_of(generator));
    TORCH_CHECK(
        found == saved.tensors.end() || (found->second.sizes() == tensor.sizes() &&
                                         found->second.scalar_type() == tensor.scalar_type()),
        "the checkpoint's random state of ", name_of(generator),
        " is not one that this LibTorch has");
  }
  return [own, set, saved = std::move(saved)] {
    for (auto [generator, tensor] : own) {
      const auto found = saved.tensors.find(name_of(generator));
      if (found == saved.tensors.end()) continue;
      const std::lock_guard lock(generator.mutex());
      set(generator, found->second);
    }
  };
}

std::uint64_t hash_of(const at::Tensor& state, int rank) {
  const std::string_view bytes(static_cast<const char*>(state.const_data_ptr()), state.nbytes());
  // FNV-1a, the same with every standard library.
  constexpr std::uint64_t kBasis = 14695981039346656037U;
  constexpr std::uint64_t kPrime = 1099511628211U;
  std::uint64_t hash = kBasis ^ static_cast<std::uint64_t>(rank);
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * kPrime;
  return hash;
}

}  // namespace

detail::TrainingPart random_part(const std::string& name) {
  const auto prepare = [](PartState saved) {
    return for_each(std::move(saved), [](at::Generator& generator, const at::Tensor& state) {
      generator.set_state(state);
    });
  };
  const auto adapt = [](PartState of_rank_0, int rank) {
    return for_each(std::move(of_rank_0),
                    [rank](at::Generator& generator, const at::Tensor& state) {
                      generator.set_current_seed(hash_of(state, rank));
                    });
  };
  return {name, true, false, current, prepare, adapt};
}

}  // namespace lockstep::training

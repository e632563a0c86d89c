// SPDX-License-Identifier: BSD-3-Clause
#include "training/ambient/ambient_state.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>

#include <mutex>

#include "core/thread_generator.h"

namespace lockstep {
namespace {

constexpr std::array<at::DeviceType, 2> kDevices{at::kCPU, at::kCUDA};

std::vector<at::Generator> default_generators() {
  const auto* const own = ThreadGenerator::current();
  std::vector<at::Generator> generators{
      own != nullptr ? *own : at::globalContext().defaultGenerator(at::kCPU)};
  if (!at::hasCUDA()) return generators;
  // A device without a context has drawn nothing, and asking for its state would give it one.
  const auto& hooks = at::detail::getCUDAHooks();
  for (c10::DeviceIndex index = 0; index < hooks.deviceCount(); ++index) {
    if (!hooks.hasPrimaryContext(index)) continue;
    generators.push_back(at::globalContext().defaultGenerator(c10::Device(at::kCUDA, index)));
  }
  return generators;
}

}  // namespace

RandomState RandomState::current() {
  RandomState state;
  for (at::Generator& generator : default_generators()) {
    const std::lock_guard lock(generator.mutex());
    at::Tensor its_state = generator.get_state();
    state.generators_.emplace_back(std::move(generator), std::move(its_state));
  }
  return state;
}

void RandomState::restore() const {
  for (auto [generator, state] : generators_) {
    const std::lock_guard lock(generator.mutex());
    generator.set_state(state);
  }
}

RandomGuard::RandomGuard(const RandomState& state) : before_(RandomState::current()) {
  state.restore();
}

RandomGuard::~RandomGuard() {
  before_.restore();
}

AutocastState AutocastState::current() {
  AutocastState state;
  for (std::size_t i = 0; i < kDevices.size(); ++i) {
    state.devices_[i] = {at::autocast::is_autocast_enabled(kDevices[i]),
                         at::autocast::get_autocast_dtype(kDevices[i])};
  }
  state.is_cache_enabled_ = at::autocast::is_autocast_cache_enabled();
  return state;
}

AutocastState AutocastState::without_cache() const {
  AutocastState state = *this;
  state.is_cache_enabled_ = false;
  return state;
}

void AutocastState::restore() const {
  for (std::size_t i = 0; i < kDevices.size(); ++i) {
    at::autocast::set_autocast_enabled(kDevices[i], devices_[i].is_enabled);
    at::autocast::set_autocast_dtype(kDevices[i], devices_[i].dtype);
  }
  at::autocast::set_autocast_cache_enabled(is_cache_enabled_);
}

AutocastGuard::AutocastGuard(const AutocastState& state) : before_(AutocastState::current()) {
  state.restore();
}

AutocastGuard::~AutocastGuard() {
  before_.restore();
}

}  // namespace lockstep

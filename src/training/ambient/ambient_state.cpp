// SPDX-License-Identifier: BSD-3-Clause
#include "training/ambient/ambient_state.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <mutex>

#include "core/thread_generator.h"

namespace lockstep {
namespace {

constexpr std::array<at::DeviceType, 2> kDevices{at::kCPU, at::kCUDA};

c10::DeviceIndex current_cuda_device() {
  return c10::impl::VirtualGuardImpl(at::kCUDA).getDevice().index();
}

std::vector<at::Generator> default_generators() {
  const auto* const own = ThreadGenerator::current();
  std::vector<at::Generator> generators{
      own != nullptr ? *own : at::globalContext().defaultGenerator(at::kCPU)};
  if (!at::hasCUDA()) return generators;
  // A device without a context has drawn nothing, and asking for its state would give it one.
  const auto& hooks = at::detail::getCUDAHooks();
  for (c10::DeviceIndex index = 0; index < hooks.deviceCount(); ++index) {
    if (!hooks.hasPrimaryContext(index)) continue;
    if (own != nullptr && index != current_cuda_device()) continue;
    generators.push_back(at::globalContext().defaultGenerator(c10::Device(at::kCUDA, index)));
  }
  return generators;
}

}  // namespace

RandomState RandomState::current() {
  RandomState state;
  state.is_of_thread_ = ThreadGenerator::current() != nullptr;
  for (const at::Generator& generator : default_generators()) state.add(generator);
  return state;
}

void RandomState::add(at::Generator generator) {
  at::Tensor state;
  {
    const std::lock_guard lock(generator.mutex());
    state = generator.get_state();
  }
  generators_.emplace_back(std::move(generator), std::move(state));
}

RandomState RandomState::now() const {
  RandomState state;
  state.is_of_thread_ = is_of_thread_;
  for (const auto& [generator, before] : generators_) state.add(generator);
  return state;
}

RandomState RandomState::with_new_generator() const {
  RandomState state = *this;
  state.generators_.front().first = at::detail::createCPUGenerator();
  return state;
}

void RandomState::restore() const {
  for (auto [generator, state] : generators_) {
    const std::lock_guard lock(generator.mutex());
    generator.set_state(state);
  }
}

RandomGuard::RandomGuard(const RandomState& state) {
  if (!state.is_of_thread() && ThreadGenerator::current() == nullptr) {
    before_ = state.now();
    state.restore();
    return;
  }
  const RandomState copy = state.with_new_generator();
  before_ = copy.now();
  copy.restore();
  redirection_ = std::make_unique<ThreadGenerator>(
      [generator = copy.generators().front().first] { return &generator; });
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

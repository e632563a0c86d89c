// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>
#include <lockstep/tensor_parallel/region_random.h>
#include <torch/csrc/autograd/graph_task.h>

#include <memory>
#include <mutex>

#include "core/thread_generator.h"

namespace lockstep::tensor_parallel {
namespace {

/// A seed for a rank, which is unlike that of its neighbours and unlike `seed` (the finisher of
/// SplitMix64).
std::uint64_t seed_of_rank(std::uint64_t seed, int rank) {
  std::uint64_t mixed = seed + (static_cast<std::uint64_t>(rank) + 1) * 0x9e3779b97f4a7c15;
  mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
  return mixed ^ (mixed >> 31);
}

at::Tensor state_of(at::Generator generator) {
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state();
}

void give_state(at::Generator generator, const at::Tensor& state) {
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_state(state);
}

const at::Generator& default_generator(c10::Device device) {
  return at::globalContext().defaultGenerator(device);
}

}  // namespace

RegionRandom::RegionRandom(std::uint64_t seed, const ProcessGroup& group, c10::Device device)
    : generator_(default_generator(device).clone()) {
  generator_.set_current_seed(seed_of_rank(seed, group.rank()));
}

RegionRandom::Scope RegionRandom::enter() {
  return Scope(*this);
}

at::Tensor RegionRandom::state() const {
  TORCH_CHECK(!is_inside_, "RegionRandom: state() inside of a scope");
  return state_of(generator_);
}

void RegionRandom::set_state(const at::Tensor& state) {
  TORCH_CHECK(!is_inside_, "RegionRandom: set_state inside of a scope");
  give_state(generator_, state);
}

RegionRandom::Scope::Scope(RegionRandom& random) : random_(random) {
  TORCH_CHECK(!random.is_inside_, "RegionRandom: enter() inside of a scope of the same object");
  // Backward draws nothing by itself, and runs without gradients unless it is differentiated.
  TORCH_CHECK(torch::autograd::get_current_graph_task_id() == -1 || !at::GradMode::is_enabled(),
              "RegionRandom: enter() in backward, as in a function that lockstep::checkpoint runs "
              "again: the region would give other numbers than the first time. Enter the scope "
              "before checkpoint, or checkpoint the code around the scope only");
  const at::Generator& own = random.generator_;
  if (own.device().is_cpu()) {
    redirection_ = std::make_unique<ThreadGenerator>([&own] { return &own; });
  } else {
    outside_ = state_of(default_generator(own.device()));
    give_state(default_generator(own.device()), state_of(own));
  }
  random.is_inside_ = true;
}

RegionRandom::Scope::~Scope() {
  random_.is_inside_ = false;
  if (redirection_ != nullptr) return;
  const at::Generator& own = random_.generator_;
  give_state(own, state_of(default_generator(own.device())));
  give_state(default_generator(own.device()), outside_);
}

}  // namespace lockstep::tensor_parallel

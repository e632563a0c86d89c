// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <c10/util/Exception.h>
#include <lockstep/tensor_parallel/region_random.h>

#include <mutex>
#include <utility>

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

/// Gives the default generator of `device` another state, and returns the one that it had.
at::Tensor swap_state(c10::Device device, const at::Tensor& state) {
  at::Generator generator = at::globalContext().defaultGenerator(device);
  const std::lock_guard<std::mutex> lock(generator.mutex());
  at::Tensor before = generator.get_state();
  generator.set_state(state);
  return before;
}

}  // namespace

RegionRandom::RegionRandom(std::uint64_t seed, const ProcessGroup& group, c10::Device device)
    : device_(device) {
  at::Generator own = at::globalContext().defaultGenerator(device).clone();
  own.set_current_seed(seed_of_rank(seed, group.rank()));
  state_ = own.get_state();
}

RegionRandom::Scope RegionRandom::enter() {
  return Scope(*this);
}

void RegionRandom::set_state(const at::Tensor& state) {
  TORCH_CHECK(!is_inside_, "RegionRandom: set_state inside of a scope");
  state_ = state.clone();
}

RegionRandom::Scope::Scope(RegionRandom& random) : random_(random) {
  TORCH_CHECK(!random.is_inside_, "RegionRandom: enter() inside of a scope of the same object");
  outside_ = swap_state(random.device_, random.state_);
  random.is_inside_ = true;
}

RegionRandom::Scope::~Scope() {
  random_.state_ = swap_state(random_.device_, outside_);
  random_.is_inside_ = false;
}

}  // namespace lockstep::tensor_parallel

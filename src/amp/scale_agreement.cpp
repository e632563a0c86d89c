// SPDX-License-Identifier: BSD-3-Clause
#include "amp/scale_agreement.h"

#include <ATen/ops/empty.h>

#include <array>
#include <sstream>

namespace lockstep::amp {
namespace {

constexpr std::size_t kFlags = 3;
constexpr std::array<const char*, 5> kSame{"the scale", "the number of steps since it changed",
                                           "growth_factor", "backoff_factor", "growth_interval"};

CommContext context_of_step(const ProcessGroup& group) {
  return {std::string(to_string(group.backend())), "GradScaler::step", group.rank(), group.size(),
          0};
}

}  // namespace

// One all-reduce serves all: a maximum of flags is what any rank has found, and two numbers are
// equal on all ranks where the largest of them is the smallest, which is the largest of what is
// negated.
ScaleReport agree_on(ProcessGroup& group, const ScaleReport& own) {
  const std::array<double, kSame.size()> values{own.scale, static_cast<double>(own.growth_tracker),
                                                own.growth_factor, own.backoff_factor,
                                                static_cast<double>(own.growth_interval)};
  const at::Tensor words =
      at::empty({static_cast<std::int64_t>(kFlags + 2 * values.size())}, at::kDouble);
  auto* word = words.mutable_data_ptr<double>();
  word[0] = own.found_inf ? 1 : 0;
  word[1] = own.has_gradients ? 1 : 0;
  word[2] = own.has_scaled ? 1 : 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    word[kFlags + 2 * i] = values[i];
    word[kFlags + 2 * i + 1] = -values[i];
  }
  {
    // Ranks that are elsewhere (in `join` without a step) learn by this name what they have missed.
    const auto scope = group.with(CallOptions().name("GradScaler::step"));
    group.all_reduce(words, ReduceOp::Max).wait();
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double largest = word[kFlags + 2 * i];
    const double smallest = -word[kFlags + 2 * i + 1];
    if (largest == smallest) continue;
    std::ostringstream reason;
    reason.precision(17);
    reason << kSame[i] << " is not the same on all ranks: here " << values[i] << ", at least "
           << smallest << ", at most " << largest;
    throw MismatchError(context_of_step(group), reason.str(),
                        "give all ranks the same options, load the same state everywhere, and call "
                        "step() and update() equally often, also on ranks that join");
  }
  ScaleReport all = own;
  all.found_inf = word[0] != 0;
  all.has_gradients = word[1] != 0;
  all.has_scaled = word[2] != 0;
  return all;
}

}  // namespace lockstep::amp

// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/pipeline/schedule.h>

#include <stdexcept>
#include <string>

#include "fuzz/fuzz_target.h"

namespace lockstep::fuzz {
namespace {

/// Whatever the text: a plan that is accepted runs, and is the same after writing and reading.
void use_plan(const std::string& text) {
  const auto plan = pipeline::Plan::from_csv(text);
  if (pipeline::Plan::from_csv(plan.to_csv()) != plan) {
    throw std::logic_error("a plan became another one");
  }
  if (plan.to_text().empty()) throw std::logic_error("a plan without a grid");
  plan.check();
  static_cast<void>(plan.simulate({.forward = 1, .input = 1, .weight = 1}).to_text());
  for (std::int64_t rank = 0; rank < plan.ranks(); ++rank) {
    if (plan.steps(rank).size() < plan.actions(rank).size()) throw std::logic_error("few steps");
  }
  for (std::int64_t stage = 0; stage < plan.stages(); ++stage) {
    const auto peak = plan.peak_in_flight(stage);
    if (peak < 1 || peak > plan.microbatches()) throw std::logic_error("no such peak");
    if (plan.peak_gradients_in_flight(stage) > plan.microbatches()) {
      throw std::logic_error("no such peak of gradients");
    }
  }
}

Bytes bytes_of(const std::string& text) {
  return Bytes(text.begin(), text.end());
}

}  // namespace

std::vector<FuzzTarget> pipeline_targets() {
  using namespace pipeline;
  return {{"pipeline_plan",
           {bytes_of(one_f_one_b().plan(3, 1, 4).to_csv()), bytes_of(zbv().plan(2, 2, 3).to_csv()),
            bytes_of("0UNSHARD,0F0,,0SEND_F0,0RECV_B0,0B0\r\n1F0 ,1I0,1W0,1REDUCE_GRAD\r\n")},
           [](const Bytes& input) { use_plan(std::string(input.begin(), input.end())); },
           {}}};
}

}  // namespace lockstep::fuzz

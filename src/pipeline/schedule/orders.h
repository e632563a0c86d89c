// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/pipeline/action.h>

#include <cstdint>
#include <vector>

namespace lockstep::pipeline {

/// What the rules below are asked for. All numbers are at least 1.
struct PlanSize {
  std::int64_t ranks = 1;
  std::int64_t stages_per_rank = 1;
  std::int64_t microbatches = 1;
};

/// The order of one rank, by each of the schedules. They throw `c10::Error` for sizes with which a
/// schedule cannot run.
std::vector<Action> gpipe_order(const PlanSize& size, std::int64_t rank);
std::vector<Action> one_f_one_b_order(const PlanSize& size, std::int64_t rank);
std::vector<Action> interleaved_order(const PlanSize& size, std::int64_t rank);
std::vector<Action> zero_bubble_order(const PlanSize& size, std::int64_t rank);
std::vector<Action> zbv_order(const PlanSize& size, std::int64_t rank);

}  // namespace lockstep::pipeline

// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/pipeline/schedule.h>

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "files/bounded_file.h"
#include "files/bounded_view.h"
#include "pipeline/schedule/orders.h"

namespace lockstep::pipeline {
namespace {

constexpr std::uint64_t kMostBytes = std::uint64_t{16} << 20;
/// Of stages times microbatches. A plan has two or three actions for each.
constexpr std::int64_t kMostPieces = std::int64_t{1} << 18;

using OrderOfRank = std::vector<Action> (*)(const PlanSize& size, std::int64_t rank);

Schedule schedule_of(const char* name, OrderOfRank order_of_rank) {
  return {name, [order_of_rank](std::int64_t ranks, std::int64_t stages_per_rank,
                                std::int64_t microbatches) {
            std::vector<std::vector<Action>> actions;
            for (std::int64_t rank = 0; rank < ranks; ++rank) {
              actions.push_back(order_of_rank({ranks, stages_per_rank, microbatches}, rank));
            }
            return Plan(std::move(actions));
          }};
}

void check_numbers(const std::string& name, std::int64_t ranks, std::int64_t stages_per_rank,
                   std::int64_t microbatches) {
  TORCH_CHECK(ranks >= 1 && stages_per_rank >= 1 && microbatches >= 1, "the pipeline schedule ",
              name, " was asked for ", ranks, " rank(s), ", stages_per_rank,
              " stage(s) a rank and ", microbatches, " microbatch(es); each is at least 1");
  const bool fits = ranks <= kMostPieces && stages_per_rank <= kMostPieces / ranks &&
                    microbatches <= kMostPieces / (ranks * stages_per_rank);
  TORCH_CHECK(fits, "the pipeline schedule ", name, " was asked for ", ranks, " rank(s), ",
              stages_per_rank, " stage(s) a rank and ", microbatches,
              " microbatch(es); their product is at most ", kMostPieces);
}

Schedule schedule_of_text(std::string name, std::string_view text) {
  auto plan = std::make_shared<const Plan>(Plan::from_csv(text));
  plan->check();
  return {std::move(name), [plan](std::int64_t, std::int64_t, std::int64_t) { return *plan; }};
}

}  // namespace

Schedule::Schedule(std::string name, Rule rule) : name_(std::move(name)), rule_(std::move(rule)) {
  TORCH_CHECK(rule_, "the pipeline schedule ", name_, " has no rule");
}

Plan Schedule::plan(std::int64_t ranks, std::int64_t stages_per_rank,
                    std::int64_t microbatches) const {
  check_numbers(name_, ranks, stages_per_rank, microbatches);
  Plan plan = rule_(ranks, stages_per_rank, microbatches);
  const bool fits = plan.ranks() == ranks && plan.stages_per_rank() == stages_per_rank &&
                    plan.microbatches() == microbatches;
  TORCH_CHECK(fits, "the pipeline schedule ", name_, " is for ", plan.ranks(), " rank(s), ",
              plan.stages_per_rank(), " stage(s) a rank and ", plan.microbatches(),
              " microbatch(es); it was asked for ", ranks, ", ", stages_per_rank, " and ",
              microbatches);
  plan.check();
  return plan;
}

Schedule gpipe() {
  return schedule_of("GPipe", gpipe_order);
}

Schedule one_f_one_b() {
  return schedule_of("1F1B", one_f_one_b_order);
}

Schedule interleaved() {
  return schedule_of("interleaved", interleaved_order);
}

Schedule zero_bubble() {
  return schedule_of("zero bubble", zero_bubble_order);
}

Schedule zbv() {
  return schedule_of("ZBV", zbv_order);
}

Schedule from_text(std::string_view text) {
  return schedule_of_text("of a text", text);
}

Schedule from_file(const std::string& path) {
  const files::BoundedFile file(path);
  TORCH_CHECK(file.size() <= kMostBytes, path, ": has ", file.size(), " bytes; a pipeline's plan ",
              "has at most ", kMostBytes);
  const std::string text = file.text(0, file.size(), "a pipeline's plan");
  try {
    return schedule_of_text("of " + path, text);
  } catch (const c10::Error& error) {
    TORCH_CHECK(false, path, ": ", error.what_without_backtrace());
  }
}

Schedule schedule_named(std::string_view name) {
  struct Named {
    std::string_view name;
    Schedule (*make)();
  };
  static constexpr std::array<Named, 5> kSchedules = {{{"gpipe", gpipe},
                                                       {"1f1b", one_f_one_b},
                                                       {"interleaved", interleaved},
                                                       {"zero_bubble", zero_bubble},
                                                       {"zbv", zbv}}};
  for (const auto& each : kSchedules) {
    if (each.name == name) return each.make();
  }
  TORCH_CHECK(false, "there is no pipeline schedule ", files::in_quotes(name),
              "; there are gpipe, 1f1b, interleaved, zero_bubble and zbv");
}

}  // namespace lockstep::pipeline

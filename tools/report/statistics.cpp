// SPDX-License-Identifier: BSD-3-Clause
#include "statistics.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace report {
namespace {

constexpr std::array<const char*, 3> kKinds{"ddp", "loader", "checkpoints"};
constexpr std::size_t kMostRates = 200;

double of_all(const RunData& data, const std::string& name, std::int64_t rank) {
  return grown(points_of(data, name, rank));
}

}  // namespace

std::pair<std::string, std::string> split_name(const std::string& name) {
  const auto at = name.rfind('/');
  if (at == std::string::npos) return {"", name};
  return {name.substr(0, at), name.substr(at + 1)};
}

std::string statistics_kind(const std::string& prefix) {
  for (const std::string kind : kKinds) {
    if (prefix == kind || prefix.starts_with(kind + " ")) return kind;
  }
  return "";
}

std::set<std::string> prefixes_of(const RunData& data, const std::string& kind) {
  std::set<std::string> result;
  for (const auto& [name, series] : data.numbers) {
    const auto prefix = split_name(name).first;
    if (statistics_kind(prefix) == kind) result.insert(prefix);
  }
  return result;
}

const std::vector<Point>& points_of(const RunData& data, const std::string& name,
                                    std::int64_t rank) {
  static const std::vector<Point> none;
  const auto found = data.numbers.find(name);
  if (found == data.numbers.end()) return none;
  const auto series = found->second.find(rank);
  return series == found->second.end() ? none : series->second.points();
}

double grown(const std::vector<Point>& points) {
  double sum = 0;
  double before = 0;
  for (const auto& point : points) {
    if (!std::isfinite(point.value)) continue;
    sum += point.value >= before ? point.value - before : point.value;
    before = point.value;
  }
  return sum;
}

std::vector<Point> rates(const std::vector<Point>& above, const std::vector<Point>& below,
                         bool by_time) {
  std::vector<Point> result;
  const auto points = thinned(above, kMostRates);
  std::size_t next = 0;
  const Point* before = nullptr;
  double below_before = 0;
  for (const auto& point : points) {
    double divisor = point.time;
    if (!by_time) {
      while (next < below.size() && below[next].step < point.step) ++next;
      if (next == below.size() || below[next].step != point.step) continue;
      divisor = below[next].value;
    }
    if (before != nullptr && divisor > below_before && point.value >= before->value) {
      result.push_back(
          {point.step, point.time, (point.value - before->value) / (divisor - below_before)});
    }
    before = &point;
    below_before = divisor;
  }
  return result;
}

std::vector<Point> step_rates(const RunData& data, std::int64_t rank) {
  const std::vector<Point>* longest = nullptr;
  for (const auto& [name, series] : data.numbers) {
    const auto& points = points_of(data, name, rank);
    if (longest == nullptr || points.size() > longest->size()) longest = &points;
  }
  if (longest == nullptr) return {};
  auto steps = *longest;
  for (auto& point : steps) point.value = point.step;
  return rates(steps, {}, /*by_time=*/true);
}

std::vector<Share> phases(const RunData& data, std::int64_t rank) {
  const auto steps = of_all(data, "ddp/steps", rank);
  if (steps <= 0) return {};
  const auto forward = of_all(data, "ddp/forward_seconds", rank);
  const auto backward = of_all(data, "ddp/backward_seconds", rank);
  const auto exposed = of_all(data, "ddp/exposed_seconds", rank);
  const auto stall = of_all(data, "loader/stall_seconds", rank);
  // The loader measures whole passes, so what is left of them is the program's and the optimizer's.
  const auto passes = of_all(data, "loader/seconds", rank);
  const auto rest = std::max(0.0, passes - stall - forward - backward - exposed);
  return {{"forward", forward / steps},
          {"backward", backward / steps},
          {"waiting for other ranks", exposed / steps},
          {"waiting for data", stall / steps},
          {"rest", rest / steps}};
}

}  // namespace report

// SPDX-License-Identifier: BSD-3-Clause
#include "run_data.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "run_files.h"

namespace report {
namespace {

using nlohmann::json;

constexpr std::size_t kMostPoints = std::size_t{1} << 16;
constexpr std::size_t kMostNames = 1000;
constexpr std::size_t kMostRanks = 4096;
constexpr std::size_t kMostNotes = 100;

/// A number, or one of the texts for what is none.
std::optional<double> number_in(const json& value) {
  if (value.is_number()) return value.get<double>();
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  if (!value.is_string()) return std::nullopt;
  const auto& text = value.get_ref<const std::string&>();
  if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (text == "Infinity") return std::numeric_limits<double>::infinity();
  if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
  return std::nullopt;
}

void add_value(RunData& data, const std::string& name, std::int64_t rank, const json& value,
               const Point& at) {
  const auto number = number_in(value);
  if (!number && !value.is_string()) return;
  const bool is_known = data.numbers.contains(name) || data.texts.contains(name);
  if (!is_known && data.numbers.size() + data.texts.size() >= kMostNames) {
    ++data.left_out;
  } else if (number) {
    data.numbers[name][rank].add({at.step, at.time, *number});
  } else {
    data.texts[name][rank] = value.get<std::string>();
  }
}

/// Two logs of one rank are of two runs, or of a run that went on in another folder: a step of the
/// later replaces that of the earlier, which nobody would see.
void note_other_log(RunData& data, std::int64_t rank, const std::string& log) {
  const auto [known, is_new] = data.logs.emplace(rank, log);
  if (is_new || known->second == log) return;
  if (data.notes.size() < kMostNotes) {
    data.notes.push_back("Rank " + std::to_string(rank) + " has lines in '" + known->second +
                         "' and in '" + log +
                         "'; from the first step of the latter on, only those are shown. If they "
                         "are of two runs, make a report of each folder.");
  }
  known->second = log;
}

bool add_line(std::string_view line, const std::string& log, RunData& data) {
  const auto object = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return false;
  if (const auto note = object.find("lockstep"); note != object.end() && note->is_string()) {
    if (data.notes.size() < kMostNotes) data.notes.push_back(note->get<std::string>());
    return true;
  }
  const auto time = object.find("t");
  const auto step = object.find("step");
  const auto rank = object.find("rank");
  if (time == object.end() || !time->is_number() || step == object.end() ||
      !step->is_number_integer() || rank == object.end() || !rank->is_number_integer()) {
    return false;
  }
  const Point at{step->get<double>(), time->get<double>(), 0};
  const auto number = rank->get<std::int64_t>();
  if (!data.ranks.contains(number) && data.ranks.size() >= kMostRanks) return false;
  data.first_time = data.ranks.empty() ? at.time : std::min(data.first_time, at.time);
  data.last_time = data.ranks.empty() ? at.time : std::max(data.last_time, at.time);
  data.ranks.insert(number);
  note_other_log(data, number, log);
  for (const auto& [name, value] : object.items()) {
    if (name != "t" && name != "step" && name != "rank") add_value(data, name, number, value, at);
  }
  return true;
}

void keep(std::vector<Point>& result, const Point* point) {
  if (point != nullptr && (result.empty() || result.back().step < point->step)) {
    result.push_back(*point);
  }
}

}  // namespace

void Series::add(const Point& point) {
  while (!points_.empty() && points_.back().step >= point.step) points_.pop_back();
  points_.push_back(point);
  if (points_.size() > kMostPoints) points_ = thinned(points_, kMostPoints / 2);
}

std::vector<Point> thinned(const std::vector<Point>& points, std::size_t most) {
  if (points.size() <= most || most < 8) return points;
  std::vector<Point> result{points.front()};
  const auto groups = most / 4;
  for (std::size_t group = 0; group < groups; ++group) {
    const Point* least = nullptr;
    const Point* largest = nullptr;
    const Point* odd = nullptr;
    for (auto i = group * points.size() / groups; i < (group + 1) * points.size() / groups; ++i) {
      const auto* point = &points[i];
      if (!std::isfinite(point->value)) {
        odd = point;
        continue;
      }
      if (least == nullptr || point->value < least->value) least = point;
      if (largest == nullptr || point->value > largest->value) largest = point;
    }
    std::vector<const Point*> kept{least, largest, odd};
    std::erase(kept, nullptr);
    std::sort(kept.begin(), kept.end(),
              [](const Point* a, const Point* b) { return a->step < b->step; });
    for (const auto* point : kept) keep(result, point);
  }
  keep(result, &points.back());
  return result;
}

void read_run_log(const std::filesystem::path& path, const std::string& name, RunData& data) {
  FileNote note{name, 0, 0};
  const auto log = log_base(name);
  note.unused = for_each_line(path, [&](std::string_view line) {
    const bool is_used = add_line(line, log, data);
    note.lines += is_used ? 1 : 0;
    return is_used;
  });
  data.files.push_back(note);
}

}  // namespace report

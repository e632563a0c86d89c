// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/training/run_log.h>

#include <chrono>
#include <cmath>
#include <set>
#include <system_error>

#include "files/json_events.h"
#include "training/run_log/shortest_number.h"

namespace lockstep::training {
namespace {

/// With microseconds: more digits than a double has room for would only look exact.
double seconds_since_1970() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<double>(std::chrono::duration_cast<std::chrono::microseconds>(now).count()) /
         1e6;
}

/// Those that every line has, and those of lines about lost lines.
bool is_reserved(std::string_view name) {
  return name == "t" || name == "step" || name == "rank" || name == "time" || name == "lockstep";
}

}  // namespace

std::string RunValue::json_of(double value) {
  if (std::isnan(value)) return R"("NaN")";
  if (std::isinf(value)) return value > 0 ? R"("Infinity")" : R"("-Infinity")";
  if (value == 0 && std::signbit(value)) return "-0.0";  // readers take -0 for a whole number
  return shortest_number(value);
}

std::string RunValue::json_of(std::string_view text) {
  return files::json_string(text);
}

RunValues run_values(const CheckpointerStatistics& statistics) {
  return {{"saves", statistics.saves},
          {"failures", statistics.failures},
          {"bytes", statistics.bytes},
          {"stall_seconds", statistics.stall.count()},
          {"writing_seconds", statistics.writing.count()}};
}

RunLog::RunLog(std::shared_ptr<BackgroundWriter> writer, const std::filesystem::path& path,
               int rank)
    : writer_(std::move(writer)), rank_(rank) {
  TORCH_CHECK(writer_ != nullptr, "RunLog: there is no writer");
  TORCH_CHECK(path.extension() == ".jsonl", "RunLog: the file is '", path.string(),
              "', but its name ends in '.jsonl'");
  TORCH_CHECK(rank >= 0, "RunLog: the rank is ", rank, ", but it is 0 or more");
  std::error_code error;
  path_ = std::filesystem::absolute(path, error);
  if (!error) std::filesystem::create_directories(path_.parent_path(), error);
  TORCH_CHECK(!error, "RunLog: the folder '", path_.parent_path().string(),
              "' cannot be made: ", error.message());
}

bool RunLog::write(std::int64_t step,
                   std::initializer_list<std::pair<std::string_view, RunValue>> values) {
  std::vector<std::pair<std::string_view, const RunValue*>> line;
  line.reserve(values.size());
  for (const auto& [name, value] : values) line.emplace_back(name, &value);
  return write_line(step, line, "");
}

bool RunLog::write(std::int64_t step, const std::map<std::string, double>& values) {
  return write(step, "", RunValues(values.begin(), values.end()));
}

bool RunLog::write(std::int64_t step, std::string_view prefix, const RunValues& values) {
  std::vector<std::pair<std::string_view, const RunValue*>> line;
  line.reserve(values.size());
  for (const auto& [name, value] : values) line.emplace_back(name, &value);
  return write_line(step, line, prefix);
}

bool RunLog::write_line(std::int64_t step,
                        const std::vector<std::pair<std::string_view, const RunValue*>>& values,
                        std::string_view prefix) {
  std::string line = "{\"t\":";
  line += shortest_number(seconds_since_1970());
  line += ",\"step\":";
  line += std::to_string(step);
  line += ",\"rank\":";
  line += std::to_string(rank_);
  std::set<std::string_view> names;
  for (const auto& [name, value] : values) {
    TORCH_CHECK(!name.empty(), "RunLog: a value without a name");
    TORCH_CHECK(!prefix.empty() || !is_reserved(name), "RunLog: the name '", name,
                "' is one of t, step, rank, time and lockstep, which have a meaning of their own");
    TORCH_CHECK(names.insert(name).second, "RunLog: the name '", name, "' is twice in a line");
    std::string whole(prefix);
    if (!prefix.empty()) whole += '/';
    whole += name;
    line += ',';
    line += files::json_string(whole);
    line += ':';
    line += value->json();
  }
  line += "}\n";
  return writer_->append(path_, line);
}

}  // namespace lockstep::training

// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/training/prometheus_file.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string_view>
#include <system_error>
#include <utility>

#include "files/json_events.h"
#include "training/run_log/shortest_number.h"

namespace lockstep::training {
namespace {

/// Letters of ASCII, whatever the locale.
bool is_name(std::string_view text, bool with_colon) {
  const auto is_part = [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (with_colon && c == ':');
  };
  return !text.empty() && !(text[0] >= '0' && text[0] <= '9') &&
         std::all_of(text.begin(), text.end(), is_part);
}

void check_name(const std::string& name) {
  TORCH_CHECK(is_name(name, true), "PrometheusFile: the name '", name,
              "' is not of letters, digits, _ and :, or begins with a digit");
}

void check_labels(const PrometheusLabels& labels) {
  for (const auto& [name, value] : labels) {
    TORCH_CHECK(is_name(name, false) && !name.starts_with("__"), "PrometheusFile: the label '",
                name, "' is not of letters, digits and _, or begins with a digit or __");
    static_cast<void>(files::json_string(value));  // throws for what is no UTF-8
  }
}

std::string escaped(std::string_view text, bool with_quotes) {
  std::string result;
  for (const char c : text) {
    if (c == '\n') {
      result += "\\n";
      continue;
    }
    if (c == '\\' || (c == '"' && with_quotes)) result += '\\';
    result += c;
  }
  return result;
}

std::string label_text(const PrometheusLabels& labels) {
  std::string text = "{";
  for (const auto& [name, value] : labels) {
    if (text.size() > 1) text += ',';
    text += name;
    text += "=\"";
    text += escaped(value, true);
    text += '"';
  }
  return text + "}";
}

std::string number_text(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return shortest_number(value);
}

}  // namespace

PrometheusFile::PrometheusFile(std::shared_ptr<BackgroundWriter> writer,
                               const std::filesystem::path& path, int rank,
                               const PrometheusLabels& labels)
    : writer_(std::move(writer)), labels_(labels) {
  TORCH_CHECK(writer_ != nullptr, "PrometheusFile: there is no writer");
  TORCH_CHECK(path.extension() == ".prom", "PrometheusFile: the file is '", path.string(),
              "', but its name ends in '.prom', since collectors read no others");
  TORCH_CHECK(rank >= 0, "PrometheusFile: the rank is ", rank, ", but it is 0 or more");
  check_labels(labels);
  TORCH_CHECK(labels_.emplace("rank", std::to_string(rank)).second,
              "PrometheusFile: every line has the label 'rank' already");
  std::error_code error;
  path_ = std::filesystem::absolute(path, error);
  if (!error) std::filesystem::create_directories(path_.parent_path(), error);
  TORCH_CHECK(!error, "PrometheusFile: the folder '", path_.parent_path().string(),
              "' cannot be made: ", error.message());
}

PrometheusFile& PrometheusFile::gauge(const std::string& name, double value,
                                      const PrometheusLabels& labels) {
  return set(Kind::Gauge, name, value, labels);
}

PrometheusFile& PrometheusFile::counter(const std::string& name, double value,
                                        const PrometheusLabels& labels) {
  TORCH_CHECK(value >= 0 && std::isfinite(value), "PrometheusFile: the counter '", name, "' is ",
              value, ", but counters are 0 or more");
  return set(Kind::Counter, name, value, labels);
}

PrometheusFile& PrometheusFile::set(Kind kind, const std::string& name, double value,
                                    const PrometheusLabels& labels) {
  check_name(name);
  check_labels(labels);
  auto all = labels_;
  for (const auto& [label, text] : labels) {
    TORCH_CHECK(all.emplace(label, text).second, "PrometheusFile: every line has the label '",
                label, "' already");
  }
  const std::lock_guard lock(mutex_);
  auto& family = families_[name];
  TORCH_CHECK(family.kind == Kind::None || family.kind == kind, "PrometheusFile: '", name,
              "' is both a gauge and a counter");
  family.kind = kind;
  const auto [at, is_new] = family.values.emplace(label_text(all), value);
  TORCH_CHECK(is_new || kind == Kind::Gauge || value >= at->second, "PrometheusFile: the counter '",
              name, "' falls from ", at->second, " to ", value, ", but counters only rise");
  at->second = value;
  return *this;
}

PrometheusFile& PrometheusFile::help(const std::string& name, const std::string& text) {
  check_name(name);
  static_cast<void>(files::json_string(text));  // throws for what is no UTF-8
  const std::lock_guard lock(mutex_);
  families_[name].help = text;
  return *this;
}

bool PrometheusFile::write() {
  const std::lock_guard lock(mutex_);
  if (last_.valid() && last_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    return false;
  }
  last_ = writer_->write_file(path_, text_of_families());
  return true;
}

std::string PrometheusFile::text() const {
  const std::lock_guard lock(mutex_);
  return text_of_families();
}

std::string PrometheusFile::text_of_families() const {
  std::string text;
  for (const auto& [name, family] : families_) {
    if (family.values.empty()) continue;
    if (!family.help.empty()) text += "# HELP " + name + ' ' + escaped(family.help, false) + '\n';
    text += "# TYPE " + name + (family.kind == Kind::Gauge ? " gauge\n" : " counter\n");
    for (const auto& [labels, value] : family.values) {
      text += name + labels + ' ' + number_text(value) + '\n';
    }
  }
  return text;
}

}  // namespace lockstep::training

// SPDX-License-Identifier: BSD-3-Clause
#include "training/background/otlp_transport.h"

#include <lockstep/core/version.h>

#include <charconv>
#include <stdexcept>
#include <utility>

#include "files/json_events.h"

namespace lockstep::training {
namespace {

struct Severity {
  int number;
  const char* text;
};

Severity severity_in_otlp(logging::Level level) {
  switch (level) {
    case logging::Level::Debug:
      return {5, "DEBUG"};
    case logging::Level::Info:
      return {9, "INFO"};
    case logging::Level::Warning:
      return {13, "WARN"};
    default:
      return {17, "ERROR"};
  }
}

void append_attribute(std::string& json, const std::string& key, const std::string& value) {
  json += R"({"key":)";
  json += files::json_text(key);
  json += R"(,"value":{"stringValue":)";
  json += files::json_text(value);
  json += "}}";
}

void append_record(std::string& json, const LogRecord& record) {
  const Severity severity = severity_in_otlp(record.level);
  // 64-bit numbers are strings in this format.
  const std::string time = std::to_string(record.nanoseconds);
  json += R"({"timeUnixNano":")";
  json += time;
  json += R"(","observedTimeUnixNano":")";
  json += time;
  json += R"(","severityNumber":)";
  json += std::to_string(severity.number);
  json += R"(,"severityText":")";
  json += severity.text;
  json += R"(","body":{"stringValue":)";
  json += files::json_text(record.text);
  json += "}}";
}

class PartialSuccessEvents final : public files::JsonEvents {
 public:
  explicit PartialSuccessEvents(PartialSuccess& found) : found_(found) {}

  void on_string(const files::JsonPlace& place, std::string& value) override {
    if (is_at(place, "rejectedLogRecords")) {
      std::from_chars(value.data(), value.data() + value.size(), found_.rejected);
    } else if (is_at(place, "errorMessage")) {
      found_.message = std::move(value);
    }
  }
  void on_count(const files::JsonPlace& place, std::uint64_t value) override {
    if (is_at(place, "rejectedLogRecords")) found_.rejected = value;
  }
  void on_other(const files::JsonPlace& /*place*/, const std::string& /*text*/) override {}

 private:
  static bool is_at(const files::JsonPlace& place, const char* name) {
    return place.arrays == 0 && place.names.size() == 2 && place.names[0] == "partialSuccess" &&
           place.names[1] == name;
  }

  PartialSuccess& found_;
};

/// Those that mean "later", as the protocol has them.
bool is_for_later(int status) {
  return status == 429 || status == 502 || status == 503 || status == 504;
}

}  // namespace

std::string otlp_json(const std::vector<LogRecord>& records, const OtlpOptions& options) {
  std::string json = R"({"resourceLogs":[{"resource":{"attributes":[)";
  append_attribute(json, "service.name", options.service_name());
  for (const auto& [key, value] : options.attributes()) {
    json += ',';
    append_attribute(json, key, value);
  }
  json += R"(]},"scopeLogs":[{"scope":{"name":"lockstep","version":)";
  json += files::json_text(std::string(version()));
  json += R"(},"logRecords":[)";
  for (std::size_t i = 0; i < records.size(); ++i) {
    if (i > 0) json += ',';
    append_record(json, records[i]);
  }
  json += "]}]}]}";
  return json;
}

PartialSuccess parse_partial_success(const std::string& body) {
  PartialSuccess found;
  PartialSuccessEvents events(found);
  try {
    files::read_json(body, {}, events, [](const std::string& expected, const std::string& text) {
      throw std::runtime_error(expected + text);
    });
  } catch (const std::exception&) {
    // Some collectors answer with an empty body, or with text.
    return {};
  }
  return found;
}

OtlpTransport::OtlpTransport(const OtlpOptions& options)
    : options_(options), url_(options.endpoint()) {
  while (!url_.empty() && url_.back() == '/') url_.pop_back();
  url_ += "/v1/logs";
  headers_.emplace_back("Content-Type: application/json");
  for (const auto& [name, value] : options.headers()) {
    std::string header = name;
    header += ": ";
    headers_.push_back(header + value);
  }
}

void OtlpTransport::begin(const std::vector<LogRecord>& records) {
  refused_ = 0;
  pause_ = std::chrono::seconds(0);
  client_.post(url_, headers_, otlp_json(records, options_), options_.timeout());
}

LogTransport::State OtlpTransport::poll(Outlet::TimePoint /*now*/) {
  const auto answer = client_.poll();
  if (!answer) return State::Busy;
  if (answer->status == 0) {
    failure_ = answer->failure;
    return State::Failed;
  }
  if (answer->status >= 200 && answer->status < 300) {
    auto partial = parse_partial_success(answer->body);
    refused_ = partial.rejected;
    failure_ = std::move(partial.message);
    return State::Sent;
  }
  failure_ = "HTTP status " + std::to_string(answer->status);
  pause_ = answer->retry_after;
  if (answer->status == 413) return State::TooLarge;
  return is_for_later(answer->status) ? State::Failed : State::Refused;
}

}  // namespace lockstep::training

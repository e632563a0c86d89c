// SPDX-License-Identifier: BSD-3-Clause
#include "files/json_events.h"

#include <c10/util/Exception.h>

#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "files/bounded_view.h"

namespace lockstep::files {
namespace {

/// What nlohmann's parser calls. It keeps the names around the value, and counts.
class Handler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  Handler(const JsonLimits& limits, JsonEvents& events, const JsonFail& fail)
      : limits_(limits), events_(events), fail_(fail) {}

  bool null() override { return other("null"); }
  bool boolean(bool value) override { return other(value ? "true" : "false"); }
  bool number_integer(std::int64_t value) override { return other(std::to_string(value)); }
  bool number_unsigned(std::uint64_t value) override {
    count_value();
    events_.on_count(place(), value);
    return true;
  }
  bool number_float(double /*value*/, const std::string& text) override { return other(text); }
  bool string(std::string& value) override {
    count_value();
    events_.on_string(place(), value);
    return true;
  }
  bool binary(binary_t& /*value*/) override { return other("binary data"); }
  bool start_object(std::size_t /*elements*/) override {
    count_value();
    events_.on_object(place());
    enter(true);
    return true;
  }
  bool key(std::string& value) override {
    if (value.size() > limits_.name_bytes) {
      fail("names of at most " + std::to_string(limits_.name_bytes) + " bytes", in_quotes(value));
    }
    auto& known = levels_.back().names;
    if (!known.insert(value).second) {
      names_.back() = value;
      fail("each name once in an object", place().text() + " a second time");
    }
    if (known.size() > limits_.names) {
      fail("at most " + std::to_string(limits_.names) + " names in an object", "more");
    }
    names_.back() = std::move(value);
    return true;
  }
  bool end_object() override {
    names_.pop_back();
    levels_.pop_back();
    return true;
  }
  bool start_array(std::size_t /*elements*/) override {
    count_value();
    events_.on_array(place());
    enter(false);
    return true;
  }
  bool end_array() override {
    levels_.pop_back();
    return true;
  }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::json::exception& error) override {
    const std::string text = error.what();
    const auto reason = text.find(": ");
    fail("JSON", "at character " + std::to_string(position) + " of it: " +
                     in_quotes(reason == std::string::npos ? text : text.substr(reason + 2)));
    return false;
  }

 private:
  struct Level {
    bool is_object = false;
    std::set<std::string> names;
  };

  [[nodiscard]] JsonPlace place() const {
    int arrays = 0;
    for (auto level = levels_.rbegin(); level != levels_.rend() && !level->is_object; ++level) {
      ++arrays;
    }
    return {names_, arrays};
  }

  void enter(bool is_object) {
    if (levels_.size() >= limits_.depth) {
      fail("objects and arrays in each other to a depth of " + std::to_string(limits_.depth),
           "more");
    }
    levels_.push_back({is_object, {}});
    if (is_object) names_.emplace_back();
  }

  void count_value() {
    if (++values_ > limits_.values) {
      fail("at most " + std::to_string(limits_.values) + " values", "more");
    }
  }

  bool other(const std::string& text) {
    count_value();
    events_.on_other(place(), text);
    return true;
  }

  [[noreturn]] void fail(const std::string& expected, const std::string& found) const {
    fail_(expected, found);
    TORCH_INTERNAL_ASSERT(false, "what reports an error in JSON must throw");
  }

  const JsonLimits& limits_;
  JsonEvents& events_;
  const JsonFail& fail_;
  std::vector<Level> levels_;
  std::vector<std::string> names_;  // one for each object among the levels
  std::size_t values_ = 0;
};

}  // namespace

std::string JsonPlace::text() const {
  std::string all;
  for (const auto& name : names) all += (all.empty() ? "" : " / ") + in_quotes(name);
  return all.empty() ? "the outermost value" : all;
}

void read_json(std::string_view text, const JsonLimits& limits, JsonEvents& events,
               const JsonFail& fail) {
  // The parser takes a zero byte for the end of the text, and does not look behind it.
  if (const auto zero = text.find('\0'); zero != std::string_view::npos) {
    fail("JSON", "a zero byte at character " + std::to_string(zero) + " of it");
  }
  Handler handler(limits, events, fail);
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
}

std::string json_string(std::string_view text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    TORCH_CHECK(false, "the text ", in_quotes(text), " is no UTF-8");
  }
}

std::string json_text(std::string_view bytes) {
  constexpr auto kReplace = nlohmann::json::error_handler_t::replace;
  return nlohmann::json(bytes).dump(-1, ' ', false, kReplace);
}

}  // namespace lockstep::files

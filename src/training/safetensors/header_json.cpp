// SPDX-License-Identifier: BSD-3-Clause
#include "training/safetensors/header_json.h"

#include <utility>

#include "files/bounded_view.h"

namespace lockstep::training {
namespace {

using files::JsonPlace;

constexpr const char* kMetadata = "__metadata__";
constexpr std::size_t kMaxDimensions = 64;  // as many as LibTorch's iterators take

class HeaderEvents final : public files::JsonEvents {
 public:
  explicit HeaderEvents(const files::JsonFail& fail) : fail_(fail) {}

  HeaderJson take() { return std::move(header_); }

  void on_object(const JsonPlace& place) override {
    if (place.names.empty()) return;
    if (place.names.size() == 1 && place.arrays == 0) {
      if (place.names[0] != kMetadata) header_.tensors.try_emplace(place.names[0]);
      return;
    }
    check_unknown(place, "an object");
  }

  void on_array(const JsonPlace& place) override {
    if (auto* numbers = numbers_at(place); numbers != nullptr && place.arrays == 0) {
      numbers->emplace();
      return;
    }
    check_unknown(place, "an array");
  }

  void on_string(const JsonPlace& place, std::string& value) override {
    if (place.arrays == 0 && place.names.size() == 2) {
      if (place.names[0] == kMetadata) {
        header_.metadata.emplace(place.names[1], std::move(value));
        return;
      }
      if (place.names[1] == "dtype") {
        header_.tensors[place.names[0]].dtype = std::move(value);
        return;
      }
    }
    check_unknown(place, files::in_quotes(value));
  }

  void on_count(const JsonPlace& place, std::uint64_t value) override {
    auto* numbers = numbers_at(place);
    if (numbers == nullptr || place.arrays != 1 || !*numbers) {
      return check_unknown(place, std::to_string(value));
    }
    if ((*numbers)->size() == kMaxDimensions) {
      fail_(place.text() + ": at most " + std::to_string(kMaxDimensions) + " numbers", "more");
    }
    (*numbers)->push_back(value);
  }

  void on_other(const JsonPlace& place, const std::string& text) override {
    check_unknown(place, files::in_quotes(text));
  }

 private:
  /// Null: none are expected there.
  std::optional<std::vector<std::uint64_t>>* numbers_at(const JsonPlace& place) {
    if (place.names.size() != 2 || place.names[0] == kMetadata) return nullptr;
    auto& tensor = header_.tensors[place.names[0]];
    if (place.names[1] == "shape") return &tensor.shape;
    return place.names[1] == "data_offsets" ? &tensor.data_offsets : nullptr;
  }

  /// What stands where the format has something else is an error.
  void check_unknown(const JsonPlace& place, const std::string& found) const {
    const auto& names = place.names;
    std::string expected;
    if (names.size() < 2) {
      expected = names.empty() ? "an object, which begins with {" : "an object";
    } else if (names[0] == kMetadata) {
      expected = "a string";
    } else if (names[1] == "dtype") {
      expected = "the name of a dtype";
    } else if (names[1] == "shape" || names[1] == "data_offsets") {
      expected = "an array of numbers from 0 to 18446744073709551615";
    }
    if (!expected.empty()) fail_(place.text() + ": " + expected, found);
  }

  const files::JsonFail& fail_;
  HeaderJson header_;
};

class IndexEvents final : public files::JsonEvents {
 public:
  explicit IndexEvents(const files::JsonFail& fail) : fail_(fail) {}

  std::map<std::string, std::string> take() {
    if (!has_map_) fail_("an object 'weight_map'", "none");
    return std::move(file_of_);
  }

  void on_object(const JsonPlace& place) override {
    if (is_map(place) && place.names.size() == 1 && place.arrays == 0) {
      has_map_ = true;
      return;
    }
    if (!place.names.empty()) check_unknown(place, "an object");
  }
  void on_array(const JsonPlace& place) override { check_unknown(place, "an array"); }
  void on_string(const JsonPlace& place, std::string& value) override {
    if (is_map(place) && place.names.size() == 2 && place.arrays == 0) {
      file_of_.emplace(place.names[1], std::move(value));
      return;
    }
    check_unknown(place, files::in_quotes(value));
  }
  void on_count(const JsonPlace& place, std::uint64_t value) override {
    check_unknown(place, std::to_string(value));
  }
  void on_other(const JsonPlace& place, const std::string& text) override {
    check_unknown(place, files::in_quotes(text));
  }

 private:
  static bool is_map(const JsonPlace& place) {
    return !place.names.empty() && place.names[0] == "weight_map";
  }

  void check_unknown(const JsonPlace& place, const std::string& found) const {
    if (place.names.empty()) fail_("an object, which begins with {", found);
    if (is_map(place)) fail_(place.text() + ": the name of a file for each tensor", found);
  }

  const files::JsonFail& fail_;
  std::map<std::string, std::string> file_of_;
  bool has_map_ = false;
};

template <class Events>
auto parse(std::string_view text, const files::JsonFail& fail) {
  Events events(fail);
  if (!text.starts_with('{')) {
    fail("an object, which begins with {",
         text.empty() ? "nothing" : files::in_quotes(text.substr(0, 1)));
  }
  files::read_json(text, {}, events, fail);
  return events.take();
}

}  // namespace

HeaderJson parse_header(std::string_view text, const files::JsonFail& fail) {
  return parse<HeaderEvents>(text, fail);
}

std::map<std::string, std::string> parse_index(std::string_view text, const files::JsonFail& fail) {
  return parse<IndexEvents>(text, fail);
}

}  // namespace lockstep::training

// SPDX-License-Identifier: BSD-3-Clause
#include "optim/lr_scheduler/state_tree.h"

#include <c10/util/Exception.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "files/bounded_view.h"
#include "files/json_events.h"

namespace lockstep::optim::lr_scheduler {
namespace {

using files::JsonPlace;

/// Schedules within each other need two levels each.
constexpr std::size_t kMaxDepth = 256;

class TreeEvents final : public files::JsonEvents {
 public:
  explicit TreeEvents(const files::JsonFail& fail) : fail_(fail) {}

  std::shared_ptr<StateObject> take() { return objects_.empty() ? nullptr : objects_.front(); }

  void on_object(const JsonPlace& place) override {
    auto object = std::make_shared<StateObject>();
    if (place.names.empty()) {
      if (place.arrays > 0) refuse(place);
    } else {
      at(place).objects.push_back(object);
    }
    objects_.resize(place.names.size());
    objects_.push_back(std::move(object));
  }
  void on_array(const JsonPlace& place) override {
    if (place.names.empty() || place.arrays > 0) refuse(place);
    at(place).is_array = true;
  }
  void on_string(const JsonPlace& place, std::string& value) override { add(place, '"' + value); }
  void on_count(const JsonPlace& place, std::uint64_t value) override {
    add(place, std::to_string(value));
  }
  void on_other(const JsonPlace& place, const std::string& text) override { add(place, text); }

 private:
  /// `objects_` are those around the place, and perhaps some that have ended.
  StateValue& at(const JsonPlace& place) {
    if (place.arrays > 1) refuse(place);
    return (*objects_[place.names.size() - 1])[place.names.back()];
  }
  void add(const JsonPlace& place, std::string text) {
    if (place.names.empty()) refuse(place);
    at(place).scalars.push_back(std::move(text));
  }
  void refuse(const JsonPlace& place) const {
    fail_("an object with values and arrays of values", place.text());
    TORCH_INTERNAL_ASSERT(false, "what reports an error in JSON must throw");
  }

  const files::JsonFail& fail_;
  std::vector<std::shared_ptr<StateObject>> objects_;
};

}  // namespace

std::shared_ptr<const StateObject> parse_state(const char* schedule, std::string_view text) {
  const files::JsonFail fail = [schedule](const std::string& expected, const std::string& found) {
    TORCH_CHECK(false, "the state of a ", schedule, ": expected ", expected, ", found ", found);
  };
  TreeEvents events(fail);
  files::JsonLimits limits;
  limits.depth = kMaxDepth;
  files::read_json(text, limits, events, fail);
  auto tree = events.take();
  if (tree == nullptr) fail("an object", files::in_quotes(text.substr(0, 20)));
  return tree;
}

}  // namespace lockstep::optim::lr_scheduler

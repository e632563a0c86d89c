// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/ddp_state.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "parallel/buckets/assign_buckets.h"
#include "parallel/buckets/gradient_storage.h"
#include "parallel/ddp/module_state.h"
#include "parallel/ddp/state_text.h"

namespace lockstep {
namespace {

constexpr std::string_view kBegin = "lockstep-ddp-1 ";

/// What decides about buckets. Another number of ranks may have another backend, so nothing here
/// depends on it.
std::string bucket_settings(const DistributedDataParallelOptions& options) {
  std::ostringstream text;
  text << std::boolalpha << "bucket_cap_bytes=" << options.bucket_cap_bytes()
       << " first_bucket_cap_bytes=" << options.first_bucket_cap_bytes() << " bucket_caps_bytes=";
  for (const std::size_t cap : options.bucket_caps_bytes()) text << cap << ",";
  text << " learn_order=" << options.learn_order()
       << " tune_buckets_after=" << options.tune_buckets_after() << " reduce_dtype=";
  if (options.reduce_dtype()) text << *options.reduce_dtype();
  return std::move(text).str();
}

void write_buckets(StateTextWriter& writer, const SavedBuckets& saved) {
  writer.text(saved.reason);
  writer.number(saved.buckets.size());
  for (const auto& bucket : saved.buckets) writer.numbers(bucket);
}

SavedBuckets read_buckets(StateTextReader& reader) {
  SavedBuckets saved;
  saved.reason = reader.text();
  saved.buckets.resize(reader.count());
  for (auto& bucket : saved.buckets) bucket = reader.numbers();
  return saved;
}

void write_set(StateTextWriter& writer, const SavedAssignment& set) {
  write_buckets(writer, set.current);
  writer.number(set.proposal ? 1 : 0);
  if (set.proposal) write_buckets(writer, *set.proposal);
  writer.number(set.number);
  writer.numbers(set.caps);
  writer.number(set.iterations);
  writer.numbers(set.order);
}

SavedAssignment read_set(StateTextReader& reader) {
  SavedAssignment set;
  set.current = read_buckets(reader);
  if (reader.number() != 0) set.proposal = read_buckets(reader);
  set.number = reader.number();
  set.caps = reader.numbers();
  set.iterations = reader.number();
  set.order = reader.numbers();
  return set;
}

/// The index in `list` of each name.
std::unordered_map<std::string, std::size_t> indices_in(const NamedTensors& list) {
  std::unordered_map<std::string, std::size_t> indices;
  for (std::size_t i = 0; i < list.size(); ++i) indices.emplace(list[i].first, i);
  return indices;
}

std::string described(const std::vector<DdpState::Parameter>& list, std::size_t index) {
  return index < list.size() ? "'" + list[index].name + "' (" + list[index].form + ")"
                             : std::string("none");
}

void check_buckets(const SavedBuckets& saved, const std::vector<GradientShape>& shapes,
                   const std::vector<DdpState::Parameter>& parameters) {
  for (const auto& bucket : saved.buckets) {
    const GradientShape& first = shapes[bucket.front()];
    for (const std::size_t i : bucket) {
      TORCH_CHECK(shapes[i].dtype == first.dtype && shapes[i].device == first.device,
                  "DistributedDataParallel: the state has a bucket of '",
                  parameters[bucket.front()].name, "' and '", parameters[i].name,
                  "'; in this model, their gradients are ", first.dtype, " on ", first.device,
                  " and ", shapes[i].dtype, " on ", shapes[i].device);
    }
  }
}

}  // namespace

DdpState::DdpState(const DistributedDataParallelOptions& options, const NamedTensors& all)
    : settings(bucket_settings(options)) {
  for (const auto& [name, tensor] : all) {
    parameters.push_back({name, c10::str(tensor.scalar_type(), " ", tensor.sizes()), false, 1});
  }
}

void DdpState::add(const ReducerState& reducer, const NamedTensors& hooked,
                   const NamedTensors& all) {
  // Another parameter may have got the name of one that was removed.
  std::unordered_map<const c10::TensorImpl*, std::size_t> index_of;
  for (std::size_t i = 0; i < all.size(); ++i) {
    index_of.emplace(all[i].second.unsafeGetTensorImpl(), i);
  }
  std::vector<std::size_t> indices(hooked.size(), kGone);
  for (std::size_t i = 0; i < hooked.size(); ++i) {
    const auto found = index_of.find(hooked[i].second.unsafeGetTensorImpl());
    if (found == index_of.end()) continue;
    indices[i] = found->second;
    parameters[found->second].is_hooked = true;
    parameters[found->second].expected = reducer.expected[i];
  }
  usual_samples = reducer.usual_samples;
  assignments = renumbered(reducer.assignments, indices);
}

bool DdpState::is_hooked(const std::string& name) const {
  return std::any_of(parameters.begin(), parameters.end(), [&](const Parameter& parameter) {
    return parameter.is_hooked && parameter.name == name;
  });
}

bool DdpState::fits(const NamedTensors& hooked) const {
  const auto index_of = indices_in(hooked);
  return std::all_of(parameters.begin(), parameters.end(), [&](const Parameter& parameter) {
    return !parameter.is_hooked || index_of.contains(parameter.name);
  });
}

ReducerState DdpState::for_reducer(const NamedTensors& hooked) const {
  const auto index_of = indices_in(hooked);
  ReducerState state{std::vector<int>(hooked.size(), 1), usual_samples, {}};
  std::vector<std::size_t> indices(parameters.size(), 0);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!parameters[i].is_hooked) continue;
    indices[i] = index_of.at(parameters[i].name);
    state.expected[indices[i]] = parameters[i].expected;
  }
  state.assignments = renumbered(assignments, indices);
  return state;
}

std::string DdpState::to_text() const {
  StateTextWriter writer(kBegin);
  writer.text(settings);
  writer.number(static_cast<std::uint64_t>(usual_samples));
  writer.number(parameters.size());
  for (const Parameter& parameter : parameters) {
    writer.text(parameter.name);
    writer.text(parameter.form);
    writer.number(parameter.is_hooked ? 1 : 0);
    writer.number(static_cast<std::uint64_t>(parameter.expected));
  }
  writer.number(assignments.plan);
  writer.number(assignments.sets.size());
  for (const SavedAssignment& set : assignments.sets) write_set(writer, set);
  return writer.get();
}

DdpState DdpState::from_text(const std::string& text) {
  StateTextReader reader(text, kBegin);
  DdpState state;
  state.settings = reader.text();
  const std::uint64_t samples = reader.number();
  reader.check(samples >> 63 == 0, "has too many samples");
  state.usual_samples = static_cast<std::int64_t>(samples);
  state.parameters.resize(reader.count());
  for (Parameter& parameter : state.parameters) {
    parameter.name = reader.text();
    parameter.form = reader.text();
    parameter.is_hooked = reader.number() != 0;
    const std::uint64_t expected = reader.number();
    reader.check(expected > 0 && expected <= std::numeric_limits<int>::max(),
                 "expects too few or too many gradients of a parameter");
    parameter.expected = static_cast<int>(expected);
  }
  state.assignments.plan = reader.number();
  state.assignments.sets.resize(reader.count());
  for (SavedAssignment& set : state.assignments.sets) set = read_set(reader);
  reader.finish();
  const std::string problem = problem_of(state.assignments, state.parameters.size());
  reader.check(problem.empty(), problem.c_str());
  for (const SavedAssignment& set : state.assignments.sets) {
    reader.check(std::all_of(set.order.begin(), set.order.end(),
                             [&](std::size_t i) { return state.parameters[i].is_hooked; }),
                 "has a parameter in a bucket that needs no gradient");
  }
  return state;
}

bool DdpState::has_parameters_of(const DdpState& model) const {
  return std::equal(parameters.begin(), parameters.end(), model.parameters.begin(),
                    model.parameters.end(),
                    [](const auto& a, const auto& b) { return a.is_alike(b); });
}

void DdpState::check_for(const DistributedDataParallelOptions& options,
                         const NamedTensors& all) const {
  const DdpState own(options, all);
  std::size_t i = 0;
  while (i < std::min(parameters.size(), own.parameters.size()) &&
         parameters[i].is_alike(own.parameters[i])) {
    ++i;
  }
  TORCH_CHECK(has_parameters_of(own),
              "DistributedDataParallel: the state is another model's: its parameter ", i + 1,
              " is ", described(parameters, i), "; this model's is ", described(own.parameters, i));
  TORCH_CHECK(settings == own.settings, "DistributedDataParallel: the state was saved with ",
              settings, "; this model has ", own.settings,
              ". Take the same options, or leave the state of this model out to begin with new "
              "buckets");
  const auto shapes = gradient_shapes_of(tensors_in(all), options);
  for (const SavedAssignment& set : assignments.sets) {
    check_buckets(set.current, shapes, parameters);
    if (set.proposal) check_buckets(*set.proposal, shapes, parameters);
  }
}

}  // namespace lockstep

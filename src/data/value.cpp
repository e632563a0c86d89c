// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <lockstep/data/value.h>

#include <algorithm>
#include <sstream>

#include "data/value_path.h"
#include "data/value_tensors.h"

namespace lockstep::data {
namespace {

template <class T, class Content>
const T& get(const Content& content, const Value& value, const char* wanted) {
  const T* found = std::get_if<T>(&content);
  TORCH_CHECK(found != nullptr, "this part of the sample is ", value.describe(), ", not ", wanted);
  return *found;
}

/// Samples that are about to become a batch; `at` is the number of the one that is looked at.
struct Stacking {
  std::vector<Value> samples;
  std::size_t& at;
};

Value stack_at(Stacking stacking, const std::string& where);

[[noreturn]] void refuse(const std::string& where, const Value& first, const Value& other) {
  TORCH_CHECK(false, name_of_part(where), " is ", other.describe(),
              "; in the first of the batch it is ", first.describe(),
              ", and samples must be alike to be stacked (or give the loader a collate function)");
}

// Calls `is_alike` for each of them.
template <class IsAlike>
void check_alike(const Stacking& stacking, const std::string& where, const IsAlike& is_alike) {
  const auto& samples = stacking.samples;
  for (stacking.at = 0; stacking.at < samples.size(); ++stacking.at) {
    if (!is_alike(samples[stacking.at])) refuse(where, samples[0], samples[stacking.at]);
  }
  stacking.at = 0;
}

Value stack_tensors(const Stacking& stacking, const std::string& where) {
  const auto first = stacking.samples[0].tensor();
  check_alike(stacking, where, [&](const Value& sample) {
    return sample.is_tensor() && sample.tensor().sizes() == first.sizes() &&
           sample.tensor().scalar_type() == first.scalar_type();
  });
  std::vector<at::Tensor> tensors;
  tensors.reserve(stacking.samples.size());
  for (const auto& sample : stacking.samples) tensors.push_back(sample.tensor());
  return at::stack(tensors);
}

Value stack_lists(Stacking& stacking, const std::string& where) {
  const auto count = stacking.samples[0].list().size();
  check_alike(stacking, where, [&](const Value& sample) {
    return sample.is_list() && sample.list().size() == count;
  });
  Value::List result;
  for (std::size_t child = 0; child < count; ++child) {
    Stacking column{{}, stacking.at};
    for (auto& sample : stacking.samples) {
      column.samples.push_back(std::move(sample.list()[child]));
    }
    result.push_back(stack_at(std::move(column), path_below(where, std::to_string(child))));
  }
  return result;
}

Value stack_maps(Stacking& stacking, const std::string& where) {
  const auto& parts = stacking.samples[0].map();
  check_alike(stacking, where, [&](const Value& sample) {
    return sample.is_map() && sample.map().size() == parts.size() &&
           std::all_of(parts.begin(), parts.end(),
                       [&](const auto& entry) { return sample.map().count(entry.first) != 0; });
  });
  Value::Map result;
  for (const auto& entry : parts) {
    Stacking column{{}, stacking.at};
    for (const auto& sample : stacking.samples) {
      column.samples.push_back(sample.map().at(entry.first));
    }
    result.emplace(entry.first, stack_at(std::move(column), path_below(where, entry.first)));
  }
  return result;
}

Value stack_at(Stacking stacking, const std::string& where) {
  const Value& first = stacking.samples[0];
  if (first.is_tensor()) return stack_tensors(stacking, where);
  if (first.is_list()) return stack_lists(stacking, where);
  if (first.is_map()) return stack_maps(stacking, where);
  check_alike(stacking, where, [&](const Value& sample) {
    return sample.is_nothing() == first.is_nothing() && sample.is_text() == first.is_text() &&
           sample.is_bytes() == first.is_bytes();
  });
  if (first.is_nothing()) return {};
  return Value::List(std::make_move_iterator(stacking.samples.begin()),
                     std::make_move_iterator(stacking.samples.end()));
}

}  // namespace

at::Tensor detail::tensor_of_number(const at::Scalar& number, at::ScalarType dtype) {
  return at::scalar_tensor(number, at::TensorOptions(dtype));
}

Value::Value(const char* text) {
  TORCH_CHECK(text != nullptr, "Value: the text is a null pointer");
  content_ = std::string(text);
}

at::Tensor Value::tensor() const {
  if (is_nothing()) return {};
  return get<at::Tensor>(content_, *this, "a tensor");
}

const std::string& Value::text() const {
  return get<std::string>(content_, *this, "a text");
}

const Bytes& Value::bytes() const {
  return get<Bytes>(content_, *this, "bytes");
}

const Value::List& Value::list() const {
  return get<List>(content_, *this, "a list");
}

Value::List& Value::list() {
  return const_cast<List&>(std::as_const(*this).list());
}

const Value::Map& Value::map() const {
  return get<Map>(content_, *this, "a map");
}

Value::Map& Value::map() {
  return const_cast<Map&>(std::as_const(*this).map());
}

const Value& Value::operator[](const std::string& key) const {
  const auto found = map().find(key);
  TORCH_CHECK(found != map().end(), "this part of the sample has no '", key, "'; it is ",
              describe());
  return found->second;
}

const Value& Value::operator[](std::size_t number) const {
  TORCH_CHECK(number < list().size(), "this part of the sample has no number ", number, "; it is ",
              describe());
  return list()[number];
}

std::string Value::describe() const {
  std::ostringstream text;
  if (is_tensor()) {
    const auto& content = std::get<at::Tensor>(content_);
    text << content.scalar_type() << ' ' << content.sizes();
  } else if (is_text()) {
    text << "a text";
  } else if (is_bytes()) {
    text << "bytes";
  } else if (is_list()) {
    text << "a list of " << list().size();
  } else if (is_map()) {
    text << "a map with";
    for (const auto& entry : map()) text << " '" << entry.first << "'";
  } else {
    text << "nothing";
  }
  return std::move(text).str();
}

Value stack(std::vector<Value> samples) {
  std::size_t at = 0;
  return stack(std::move(samples), at);
}

Value stack(std::vector<Value> samples, std::size_t& at) {
  at = 0;
  if (samples.empty()) return {};
  return stack_at({std::move(samples), at}, "");
}

Value clone(const Value& value) {
  return map_tensors(value, [](const at::Tensor& tensor) { return tensor.clone(); });
}

Value select_rows(const Value& batch, const std::vector<std::int64_t>& rows) {
  if (batch.is_tensor()) return batch.tensor().index_select(0, at::tensor(rows));
  if (batch.is_map()) {
    Value::Map result;
    for (const auto& [key, child] : batch.map()) result.emplace(key, select_rows(child, rows));
    return result;
  }
  if (!batch.is_list()) return batch;
  Value::List result;
  const auto& list = batch.list();
  const bool is_leaf = !list.empty() && (list[0].is_text() || list[0].is_bytes());
  if (is_leaf) {
    for (const auto row : rows) result.push_back(list.at(static_cast<std::size_t>(row)));
  } else {
    for (const auto& child : list) result.push_back(select_rows(child, rows));
  }
  return result;
}

}  // namespace lockstep::data

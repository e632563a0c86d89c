// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>
#include <lockstep/data/samples/sample_tree.h>

#include <sstream>
#include <utility>

namespace lockstep::data {
namespace {

template <class T, class Content>
const T& get(const Content& content, const SampleTree& tree, const char* wanted) {
  const T* found = std::get_if<T>(&content);
  TORCH_CHECK(found != nullptr, "this part of the sample is ", tree.describe(), ", not ", wanted);
  return *found;
}

}  // namespace

at::Tensor detail::tensor_of_number(const at::Scalar& number, at::ScalarType dtype) {
  return at::scalar_tensor(number, at::TensorOptions(dtype));
}

SampleTree::SampleTree(const char* string) {
  TORCH_CHECK(string != nullptr, "SampleTree: the string is a null pointer");
  content_ = std::string(string);
}

at::Tensor SampleTree::tensor() const {
  if (is_nothing()) return {};
  return get<at::Tensor>(content_, *this, "a tensor");
}

const std::string& SampleTree::string() const {
  return get<std::string>(content_, *this, "a string");
}

const Bytes& SampleTree::bytes() const {
  return get<Bytes>(content_, *this, "bytes");
}

const SampleTree::List& SampleTree::list() const {
  return get<List>(content_, *this, "a list");
}

SampleTree::List& SampleTree::list() {
  return const_cast<List&>(std::as_const(*this).list());
}

const SampleTree::Map& SampleTree::map() const {
  return get<Map>(content_, *this, "a map");
}

SampleTree::Map& SampleTree::map() {
  return const_cast<Map&>(std::as_const(*this).map());
}

const SampleTree& SampleTree::operator[](const std::string& key) const {
  const auto found = map().find(key);
  TORCH_CHECK(found != map().end(), "this part of the sample has no '", key, "'; it is ",
              describe());
  return found->second;
}

const SampleTree& SampleTree::operator[](std::size_t number) const {
  TORCH_CHECK(number < list().size(), "this part of the sample has no number ", number, "; it is ",
              describe());
  return list()[number];
}

std::string SampleTree::describe() const {
  std::ostringstream text;
  if (is_tensor()) {
    const auto& content = std::get<at::Tensor>(content_);
    text << content.scalar_type() << ' ' << content.sizes();
  } else if (is_string()) {
    text << "a string";
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

SampleTree select_rows(const SampleTree& batch, const std::vector<std::int64_t>& rows) {
  if (batch.is_tensor()) return batch.tensor().index_select(0, at::tensor(rows));
  if (batch.is_map()) {
    SampleTree::Map result;
    for (const auto& [key, child] : batch.map()) result.emplace(key, select_rows(child, rows));
    return result;
  }
  if (!batch.is_list()) return batch;
  SampleTree::List result;
  const auto& list = batch.list();
  const bool is_leaf = !list.empty() && (list[0].is_string() || list[0].is_bytes());
  if (is_leaf) {
    for (const auto row : rows) result.push_back(list.at(static_cast<std::size_t>(row)));
  } else {
    for (const auto& child : list) result.push_back(select_rows(child, rows));
  }
  return result;
}

}  // namespace lockstep::data

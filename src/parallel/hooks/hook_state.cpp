// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/hooks/hook_state.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <c10/util/Exception.h>
#include <lockstep/core/logging.h>

#include <charconv>
#include <utility>

namespace lockstep::hooks {
namespace {

constexpr const char* kGenerator = "generator";

}  // namespace

HookStateWriter::HookStateWriter(const char* hook, const ParametersByName& parameters)
    : hook_(hook) {
  for (const auto& [name, parameter] : parameters) {
    names_.emplace(parameter.unsafeGetTensorImpl(), name);
  }
}

const std::string& HookStateWriter::name_of(const c10::TensorImpl* parameter) const {
  const auto found = names_.find(parameter);
  TORCH_CHECK(found != names_.end(), hook_, ": the hook has state of a parameter of shape ",
              parameter->sizes(), ", which is none of the ", names_.size(),
              " given ones; give the parameters of all models that have the hook");
  return found->second;
}

void HookStateWriter::add(const std::string& name, const at::Tensor& tensor) {
  TORCH_CHECK(state_.emplace(name, tensor).second, hook_, ": the state has two entries '", name,
              "'; was the hook registered with several models? Each has one of its own");
}

void HookStateWriter::add_options(const OptionNumbers& options) {
  std::vector<double> numbers;
  for (const auto& [name, number] : options) numbers.push_back(number);
  add(hook_, at::tensor(numbers, at::kDouble));
}

void HookStateWriter::add_count(const std::string& name, std::uint64_t count) {
  add(name, at::full({}, static_cast<std::int64_t>(count), at::TensorOptions(at::kLong)));
}

void HookStateWriter::add_generator(const at::Generator& generator) {
  add(kGenerator, generator.get_state());
}

at::Tensor HookStateReader::look_at(const std::string& name) const {
  const auto found = rest_.find(name);
  return found == rest_.end() ? at::Tensor() : found->second;
}

at::Tensor HookStateReader::take(const std::string& name) {
  const auto found = rest_.find(name);
  if (found == rest_.end()) return {};
  const at::Tensor tensor = found->second;
  rest_.erase(found);
  TORCH_CHECK(tensor.defined(), hook_, ": '", name, "' of the state is undefined");
  return tensor;
}

at::Tensor HookStateReader::need(const std::string& name) {
  const at::Tensor tensor = take(name);
  TORCH_CHECK(tensor.defined(), hook_, ": the state has no '", name,
              "'; it is not whole, or another hook's");
  return tensor;
}

void HookStateReader::need_options(const OptionNumbers& own) {
  const at::Tensor saved = need(hook_).cpu();
  TORCH_CHECK(saved.scalar_type() == at::kDouble && saved.dim() == 1 &&
                  saved.numel() == static_cast<std::int64_t>(own.size()),
              hook_, ": '", hook_, "' of the state is ", saved.scalar_type(), " of shape ",
              saved.sizes(), "; it must be ", own.size(), " Doubles");
  for (std::size_t i = 0; i < own.size(); ++i) {
    const auto number = saved[static_cast<std::int64_t>(i)].item<double>();
    TORCH_CHECK(number == own[i].second, hook_, ": the state was saved with ", own[i].first, " ",
                number, "; this hook has ", own[i].second,
                ". Take the same options, or leave the hook out of the state to begin anew");
  }
}

std::uint64_t HookStateReader::need_count(const std::string& name) {
  const at::Tensor tensor = need(name);
  TORCH_CHECK(tensor.scalar_type() == at::kLong && tensor.numel() == 1, hook_, ": '", name,
              "' of the state is ", tensor.scalar_type(), " of shape ", tensor.sizes(),
              "; it must be one Long");
  const auto count = tensor.item<std::int64_t>();
  TORCH_CHECK(count >= 0, hook_, ": '", name, "' of the state is ", count,
              "; it must not be negative");
  return static_cast<std::uint64_t>(count);
}

at::Generator HookStateReader::need_generator() {
  const at::Tensor state = need(kGenerator);
  auto generator = at::make_generator<at::CPUGeneratorImpl>();
  const at::Tensor own = generator.get_state();
  TORCH_CHECK(state.scalar_type() == own.scalar_type() && state.sizes() == own.sizes(), hook_,
              ": '", kGenerator, "' of the state is ", state.scalar_type(), " of shape ",
              state.sizes(), "; this LibTorch's is ", own.scalar_type(), " of shape ", own.sizes());
  generator.set_state(state.cpu().contiguous().clone());
  return generator;
}

at::Tensor HookStateReader::take_values(const std::string& name, at::IntArrayRef sizes,
                                        const at::Tensor& parameter) {
  const at::Tensor tensor = take(name);
  if (!tensor.defined()) return {};
  const at::ScalarType dtype = tensor.scalar_type();
  TORCH_CHECK((dtype == at::kFloat || dtype == at::kDouble) && tensor.sizes() == sizes, hook_,
              ": '", name, "' of the state is ", dtype, " of shape ", tensor.sizes(),
              "; it must be Float or Double of shape ", sizes);
  return tensor.to(parameter.device(), dtype, /*non_blocking=*/false, /*copy=*/true);
}

void HookStateReader::finish() const {
  if (rest_.empty()) return;
  TORCH_CHECK(false, hook_, ": the state has '", rest_.begin()->first,
              "', which belongs to no parameter of this program, or to a hook with other options");
}

HookState without_errors(const HookState& of_rank_0) {
  HookState rest = of_rank_0;
  std::erase_if(rest, [](const auto& entry) { return entry.first.starts_with(kErrorPrefix); });
  return rest;
}

std::function<void()> with_warning(const char* hook, std::function<void()> load,
                                   const HookState& of_rank_0, int rank) {
  const std::size_t errors = of_rank_0.size() - without_errors(of_rank_0).size();
  if (rank != 0 || errors == 0) return load;
  return [hook, load = std::move(load), errors] {
    load();
    std::string text = hook;
    text += ": the state was saved by another number of ranks; what each rank had still to send ";
    text += "of the gradients of ";
    text += std::to_string(errors);
    text += " parameters is dropped";
    logging::warning(text);
  };
}

std::string counter_text(const char* kind, std::uint64_t count) {
  std::string text = kind;
  text += ' ';
  text += std::to_string(count);
  return text;
}

std::uint64_t counter_of(const char* kind, const std::string& text) {
  const std::string prefix = std::string(kind) + " ";
  std::uint64_t count = 0;
  const char* const end = text.data() + text.size();
  const bool is_of_kind = text.starts_with(prefix);
  const auto parsed = is_of_kind ? std::from_chars(text.data() + prefix.size(), end, count)
                                 : std::from_chars_result{text.data(), std::errc::invalid_argument};
  // A count is far below what no longer fits a signed number.
  TORCH_CHECK(parsed.ec == std::errc() && parsed.ptr == end && count >> 63 == 0, kind,
              ": the state is '", text.substr(0, 40), "'; it must be '", prefix,
              "' and a whole number");
  return count;
}

}  // namespace lockstep::hooks

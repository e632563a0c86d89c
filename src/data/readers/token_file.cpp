// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/empty.h>
#include <lockstep/data/file_parts.h>
#include <lockstep/data/readers/token_file.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "files/bounded_view.h"

namespace lockstep::data {
namespace {

constexpr std::uint64_t kLlmHeaderBytes = 256 * sizeof(std::int32_t);

struct Known {
  std::uint64_t magic;
  std::uint64_t version;
  std::uint64_t width;
};
constexpr Known kGpt2{20240520, 1, 2};
constexpr Known kLlama3{20240801, 7, 4};

void check(const TokenFileOptions& options) {
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max() / 16;
  TORCH_CHECK(options.block() > 0 && options.block() <= kMost, "TokenFileOptions: block is ",
              options.block(), "; it must be from 1 to ", kMost);
  TORCH_CHECK(options.stride() >= 0, "TokenFileOptions: stride is ", options.stride(),
              "; it must not be negative");
  TORCH_CHECK(options.vocabulary() >= 0, "TokenFileOptions: vocabulary is ", options.vocabulary(),
              "; it must not be negative");
}

// Returns the largest token, or 0.
template <std::size_t width>
std::int64_t widen(std::span<const std::byte> window, std::int64_t* inputs, std::int64_t* targets) {
  const auto block = window.size() / width - 1;
  std::int64_t largest = 0;
  for (std::size_t i = 0; i <= block; ++i) {
    const auto token =
        static_cast<std::int64_t>(files::little_endian(window.subspan(i * width).first<width>()));
    largest = std::max(largest, token);
    if (i < block) inputs[i] = token;
    if (i > 0) targets[i - 1] = token;
  }
  return largest;
}

}  // namespace

TokenFile::TokenFile(const std::string& path, const TokenFileOptions& options)
    : block_(static_cast<std::uint64_t>(options.block())),
      stride_(
          static_cast<std::uint64_t>(options.stride() == 0 ? options.block() : options.stride())),
      vocabulary_(options.vocabulary()) {
  check(options);
  file_ = std::make_shared<const files::BoundedView>(path);
  if (options.format() == TokenFormat::Llmc) {
    read_llmc_header();
  } else {
    width_ = options.format() == TokenFormat::BareUInt16 ? 2 : 4;
    tokens_ = file_->size() / width_;
    if (file_->size() % width_ != 0) {
      file_->fail(tokens_ * width_, "tokens of " + std::to_string(width_) + " bytes",
                  std::to_string(file_->size() % width_) + " bytes");
    }
  }
  // The last window needs a token behind it, for its target.
  if (tokens_ <= block_) {
    file_->fail(start_, "more than " + std::to_string(block_) + " tokens, for one window",
                std::to_string(tokens_));
  }
  size_ = static_cast<std::size_t>((tokens_ - 1 - block_) / stride_ + 1);
}

void TokenFile::read_llmc_header() {
  const auto number = [this](std::uint64_t place) {
    return files::little_endian(
        file_->bytes(place * sizeof(std::int32_t), sizeof(std::int32_t), "llm.c's header"));
  };
  static_cast<void>(file_->bytes(0, kLlmHeaderBytes, "llm.c's header"));
  const auto magic = number(0);
  if (magic != kGpt2.magic && magic != kLlama3.magic) {
    file_->fail(0,
                "llm.c's magic number 20240520 or 20240801 (a file without a header has a format"
                " that must be given)",
                std::to_string(magic));
  }
  const auto& known = magic == kGpt2.magic ? kGpt2 : kLlama3;
  if (number(1) != known.version) {
    file_->fail(4, "version " + std::to_string(known.version), std::to_string(number(1)));
  }
  width_ = known.width;
  start_ = kLlmHeaderBytes;
  tokens_ = number(2);  // an int32 there: llm.c writes no more
  if (tokens_ > std::uint64_t{std::numeric_limits<std::int32_t>::max()}) {
    file_->fail(8, "a number of tokens", std::to_string(static_cast<std::int32_t>(tokens_)));
  }
  const auto end = start_ + tokens_ * width_;
  static_cast<void>(file_->bytes(start_, tokens_ * width_, "the tokens that the header counts"));
  if (end != file_->size()) {
    file_->fail(end, "the end of the file", std::to_string(file_->size() - end) + " more bytes");
  }
}

std::uint64_t TokenFile::first_token(std::size_t index) const {
  TORCH_CHECK(index < size_, "TokenFile: index ", index, " is not below the size ", size_);
  return index * stride_;
}

torch::data::Example<> TokenFile::get(std::size_t index) const {
  const auto block = static_cast<std::int64_t>(block_);
  static_cast<void>(first_token(index));  // before memory is taken
  auto data = at::empty({block}, at::kLong);
  auto target = at::empty({block}, at::kLong);
  get_into(index, {static_cast<std::byte*>(data.mutable_data_ptr()), data.nbytes()},
           {static_cast<std::byte*>(target.mutable_data_ptr()), target.nbytes()});
  return {std::move(data), std::move(target)};
}

void TokenFile::get_into(std::size_t index, std::span<std::byte> data,
                         std::span<std::byte> target) const {
  const auto first = first_token(index);
  const auto wanted = block_ * sizeof(std::int64_t);
  TORCH_CHECK(data.size() == wanted && target.size() == wanted, "TokenFile: sample has ", wanted,
              " and ", wanted, " bytes, the destination ", data.size(), " and ", target.size());
  const auto offset = start_ + first * width_;
  const auto window = file_->bytes(offset, (block_ + 1) * width_, "a window of tokens");
  auto* inputs = reinterpret_cast<std::int64_t*>(data.data());
  auto* targets = reinterpret_cast<std::int64_t*>(target.data());
  const auto largest =
      width_ == 2 ? widen<2>(window, inputs, targets) : widen<4>(window, inputs, targets);
  if (vocabulary_ == 0 || largest < vocabulary_) return;
  for (std::uint64_t i = 0; i <= block_; ++i) {
    const auto token = i < block_ ? inputs[i] : targets[i - 1];
    if (token < vocabulary_) continue;
    file_->fail(offset + i * width_, "a token below " + std::to_string(vocabulary_),
                std::to_string(token));
  }
}

void TokenFile::files_of(std::size_t index, FileParts& parts) const {
  parts.add(file_->path(), start_ + first_token(index) * width_, (block_ + 1) * width_);
}

std::string TokenFile::describe(std::size_t index) const {
  const auto first = first_token(index);
  return file_->path() + ": tokens " + std::to_string(first) + " to " +
         std::to_string(first + block_) + " from byte " + std::to_string(start_ + first * width_);
}

}  // namespace lockstep::data

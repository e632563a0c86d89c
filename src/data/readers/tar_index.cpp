// SPDX-License-Identifier: BSD-3-Clause
#include "data/readers/tar_index.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <map>
#include <system_error>
#include <utility>

#include "data/readers/tar_reader.h"
#include "native/posix/atomic_file.h"

namespace lockstep::data::detail {
namespace {

// Real samples have a handful. Each new member is compared with the others of its sample, and
// whoever asks for one looks through them.
constexpr std::size_t kMaxMembers = 1000;

constexpr std::string_view kIndexMagic = "LSTARIX2";
constexpr std::uint64_t kIndexHeaderBytes = 8 * 7;  // magic, archive's size and time, four counts
constexpr std::uint64_t kMemberBytes = 8 + 8 + 4;
constexpr std::uint64_t kSampleBytes = 8 + 8;
constexpr std::uint64_t kIndexChecksumBytes = 4;

std::string index_path(const files::BoundedView& archive) {
  return archive.path() + ".lockstep-index";
}

// Files about the archive itself: WebDataset passes over what begins with a name or folder of this
// kind ("__meta__/info.json").
bool is_meta(std::string_view name) {
  constexpr std::string_view kMark = "__";
  const auto first = name.substr(0, name.find('/'));
  return first.size() >= 2 * kMark.size() && first.starts_with(kMark) && first.ends_with(kMark);
}

// Key and extension, as WebDataset takes a name apart; nothing where it passes the file over.
std::optional<std::pair<std::string_view, std::string>> split(std::string_view name) {
  if (is_meta(name)) return std::nullopt;
  const auto slash = name.rfind('/');
  const auto base = slash == std::string_view::npos ? 0 : slash + 1;
  const auto dot = name.find('.', base);
  if (dot == std::string_view::npos || dot == base) return std::nullopt;
  std::string extension(name.substr(dot + 1));
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return std::pair{name.substr(0, dot), std::move(extension)};
}

class Builder {
 public:
  explicit Builder(const files::BoundedView& archive) : archive_(archive) {}

  void add(const TarMember& member) {
    const auto parts = split(member.name);
    if (!parts) return;
    const auto& [key, extension] = *parts;
    if (index_.samples.empty() || index_.key(index_.samples.size() - 1) != key) {
      index_.keys += key;
      index_.samples.push_back({index_.keys.size(), index_.members.size()});
    }
    const auto [known, is_new] =
        numbers_.try_emplace(extension, static_cast<std::uint32_t>(index_.extensions.size()));
    if (is_new) index_.extensions.push_back(extension);
    const auto others = index_.members_of(index_.samples.size() - 1);
    if (others.size() >= kMaxMembers) {
      archive_.fail(
          member.offset,
          "at most " + std::to_string(kMaxMembers) + " members in sample " + files::in_quotes(key),
          "one more, " + files::in_quotes(member.name));
    }
    for (const auto& other : others) {
      if (other.extension == known->second) {
        archive_.fail(member.offset,
                      "one member with the extension " + files::in_quotes(extension) +
                          " in sample " + files::in_quotes(key),
                      "a second one, " + files::in_quotes(member.name));
      }
    }
    index_.members.push_back({member.offset, member.size, known->second});
    index_.samples.back().member_end = index_.members.size();
  }

  TarIndex take() { return std::move(index_); }

 private:
  const files::BoundedView& archive_;
  TarIndex index_;
  std::map<std::string, std::uint32_t> numbers_;  // of extensions
};

class Out {
 public:
  void number(std::uint64_t value, std::size_t bytes = 8) {
    bytes_.resize(bytes_.size() + bytes);
    files::put_little_endian(std::span(bytes_).last(bytes), value);
  }
  void text(std::string_view text) {
    for (const char c : text) bytes_.push_back(static_cast<std::byte>(c));
  }
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

// Takes one thing after the other from a file that is checked to hold them all.
class In {
 public:
  explicit In(const files::BoundedView& file) : file_(file) {}
  std::uint64_t number(std::uint64_t bytes = 8) { return files::little_endian(take(bytes)); }
  std::string text(std::uint64_t bytes) {
    const auto raw = take(bytes);
    return {reinterpret_cast<const char*>(raw.data()), raw.size()};
  }

 private:
  std::span<const std::byte> take(std::uint64_t bytes) {
    const auto taken = file_.bytes(at_, bytes, "the index");
    at_ += bytes;
    return taken;
  }

  const files::BoundedView& file_;
  std::uint64_t at_ = 0;
};

// Everything that members_of, key and the reader of members rely on.
bool is_sound(const TarIndex& index, std::uint64_t archive_size) {
  TarIndex::Sample last;
  for (const auto& sample : index.samples) {
    if (sample.key_end < last.key_end || sample.member_end <= last.member_end) return false;
    last = sample;
  }
  if (last.key_end != index.keys.size() || last.member_end != index.members.size()) return false;
  return std::all_of(index.members.begin(), index.members.end(), [&](const auto& member) {
    return member.extension < index.extensions.size() && member.size <= archive_size &&
           member.offset <= archive_size - member.size;
  });
}

// Throws where the file ends before its time.
std::optional<TarIndex> read(const files::BoundedView& archive, const files::BoundedView& file) {
  In in(file);
  if (in.text(kIndexMagic.size()) != kIndexMagic || in.number() != archive.size() ||
      static_cast<std::int64_t>(in.number()) != archive.modified_ns()) {
    return std::nullopt;
  }
  if (file.size() < kIndexHeaderBytes + kIndexChecksumBytes) return std::nullopt;
  const auto checked = file.size() - kIndexChecksumBytes;
  if (files::crc32_of(file.bytes(0, checked, "the index")) !=
      files::little_endian(file.bytes(checked, kIndexChecksumBytes, "the index"))) {
    return std::nullopt;
  }
  const auto extensions = in.number();
  const auto key_bytes = in.number();
  const auto members = in.number();
  const auto samples = in.number();
  // Before memory is taken: nothing of what is counted takes less than a byte.
  if (extensions > checked || key_bytes > checked || members > checked / kMemberBytes ||
      samples > checked / kSampleBytes) {
    return std::nullopt;
  }
  TarIndex index;
  for (std::uint64_t i = 0; i < extensions; ++i) {
    const auto bytes = in.number(4);
    index.extensions.push_back(in.text(bytes));
  }
  index.keys = in.text(key_bytes);
  index.members.resize(members);
  for (auto& member : index.members) {
    member.offset = in.number();
    member.size = in.number();
    member.extension = static_cast<std::uint32_t>(in.number(4));
  }
  index.samples.resize(samples);
  for (auto& sample : index.samples) {
    sample.key_end = in.number();
    sample.member_end = in.number();
  }
  if (!is_sound(index, archive.size())) return std::nullopt;
  return index;
}

}  // namespace

TarIndex TarIndex::of(const files::BoundedView& archive) {
  Builder builder(archive);
  TarReader reader(archive);
  while (const auto member = reader.next()) builder.add(*member);
  return builder.take();
}

std::optional<TarIndex> TarIndex::load(const files::BoundedView& archive) {
  try {
    return read(archive, files::BoundedView(index_path(archive)));
  } catch (const c10::Error&) {
    return std::nullopt;
  }
}

bool TarIndex::save(const files::BoundedView& archive) const {
  Out out;
  out.text(kIndexMagic);
  for (const auto value : {archive.size(), static_cast<std::uint64_t>(archive.modified_ns()),
                           std::uint64_t{extensions.size()}, std::uint64_t{keys.size()},
                           std::uint64_t{members.size()}, std::uint64_t{samples.size()}}) {
    out.number(value);
  }
  for (const auto& extension : extensions) {
    out.number(extension.size(), 4);
    out.text(extension);
  }
  out.text(keys);
  for (const auto& member : members) {
    out.number(member.offset);
    out.number(member.size);
    out.number(member.extension, 4);
  }
  for (const auto& sample : samples) {
    out.number(sample.key_end);
    out.number(sample.member_end);
  }
  out.number(files::crc32_of(out.bytes()), kIndexChecksumBytes);
  try {
    native::AtomicFile file(index_path(archive));
    file.write(0, out.bytes());
    file.publish();
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

}  // namespace lockstep::data::detail

// SPDX-License-Identifier: BSD-3-Clause
#include "comm/tcp/announcements.h"

#include <cstring>
#include <utility>

namespace lockstep {

std::uint64_t TcpAnnouncements::add_own(const Fingerprint& fingerprint) {
  note(next_, rank_, fingerprint);
  return next_++;
}

bool TcpAnnouncements::add(std::uint64_t number, int rank, std::vector<std::byte> frame) {
  Fingerprint fingerprint;
  if (frame.size() < sizeof(fingerprint)) return false;
  std::memcpy(&fingerprint, frame.data(), sizeof(fingerprint));
  FromRank& from = note(number, rank, fingerprint);
  from.frame = std::move(frame);
  from.values = std::span(from.frame).subspan(sizeof(fingerprint));
  return true;
}

TcpAnnouncements::FromRank& TcpAnnouncements::note(std::uint64_t number, int rank,
                                                   const Fingerprint& fingerprint) {
  Entry& target = entry(number);
  FromRank& from = target.ranks[static_cast<std::size_t>(rank)];
  from.fingerprint = fingerprint;
  if (!from.has_come) ++target.count;
  from.has_come = true;
  return from;
}

bool TcpAnnouncements::is_complete(std::uint64_t number) const {
  const auto found = entries_.find(number);
  return found != entries_.end() && found->second.count == world_size_;
}

bool TcpAnnouncements::has_come(std::uint64_t number, int rank) const {
  const auto found = entries_.find(number);
  return found != entries_.end() && found->second.ranks[static_cast<std::size_t>(rank)].has_come;
}

bool TcpAnnouncements::do_agree(std::uint64_t number, int rank) const {
  const auto found = entries_.find(number);
  if (found == entries_.end()) return false;
  const auto& ranks = found->second.ranks;
  const FromRank& own = ranks[static_cast<std::size_t>(rank_)];
  const FromRank& other = ranks[static_cast<std::size_t>(rank)];
  return own.has_come && other.has_come && own.fingerprint == other.fingerprint;
}

std::span<const TcpAnnouncements::FromRank> TcpAnnouncements::of(std::uint64_t number) const {
  return entries_.at(number).ranks;
}

TcpAnnouncements::Entry& TcpAnnouncements::entry(std::uint64_t number) {
  Entry& found = entries_[number];
  if (found.ranks.empty()) found.ranks.resize(static_cast<std::size_t>(world_size_));
  return found;
}

}  // namespace lockstep

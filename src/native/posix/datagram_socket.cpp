// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/datagram_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "native/posix/posix_check.h"

namespace lockstep::native {
namespace {

struct Address {
  sockaddr_un storage{};
  socklen_t length = 0;
};

// A name that starts with a zero byte lives in the kernel only.
Address abstract_address(const std::string& name) {
  Address address;
  address.storage.sun_family = AF_UNIX;
  if (name.size() + 1 > sizeof(address.storage.sun_path)) {
    throw_errno("socket name " + name, ENAMETOOLONG);
  }
  std::memcpy(address.storage.sun_path + 1, name.data(), name.size());
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

struct alignas(cmsghdr) ControlBuffer {
  std::byte bytes[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(ucred))];
};

// What came beside the bytes: at most one descriptor, and who sent it.
void read_control(msghdr& header, FileDescriptor& descriptor, bool& is_ours) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET) continue;
    if (part->cmsg_type == SCM_RIGHTS) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part), sizeof(fd));
      descriptor = FileDescriptor(fd);
    } else if (part->cmsg_type == SCM_CREDENTIALS) {
      ucred sender{};
      std::memcpy(&sender, CMSG_DATA(part), sizeof(sender));
      is_ours = sender.uid == ::getuid();  // the kernel reports the real user
    }
  }
}

/// The kernel's number of the socket with that abstract name; empty where there is none.
std::string inode_of(const std::string& name) {
  std::ifstream table("/proc/net/unix");
  for (std::string line; std::getline(table, line);) {
    std::istringstream words(line);
    std::string word, inode, path;
    for (int i = 0; i < 6; ++i) words >> word;
    words >> inode >> path;
    if (path == "@" + name) return inode;
  }
  return "";
}

}  // namespace

bool DatagramSocket::is_own(const std::string& name) {
  const std::string inode = inode_of(name);
  if (inode.empty()) return false;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error)) {
    if (std::filesystem::read_symlink(entry.path(), error) == "socket:[" + inode + "]") return true;
  }
  return false;
}

DatagramSocket::DatagramSocket(const std::string& name)
    : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
  if (!socket_.is_open()) throw_errno("socket");
  const int on = 1;
  if (::setsockopt(socket_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0) {
    throw_errno("setsockopt(SO_PASSCRED)");
  }
  const Address address = abstract_address(name);
  if (::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) !=
      0) {
    throw_errno("bind of " + name);
  }
}

bool DatagramSocket::try_send(const std::string& name, std::span<const std::byte> bytes,
                              int descriptor) {
  Address address = abstract_address(name);
  iovec content{const_cast<std::byte*>(bytes.data()), bytes.size()};
  ControlBuffer control{};
  msghdr header{};
  header.msg_name = &address.storage;
  header.msg_namelen = address.length;
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  if (descriptor >= 0) {
    header.msg_control = control.bytes;
    header.msg_controllen = CMSG_SPACE(sizeof(int));
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &descriptor, sizeof(descriptor));
  }
  if (::sendmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return true;
  if (errno == ECONNREFUSED || errno == ENOENT || errno == EAGAIN || errno == EINTR) return false;
  throw_errno("sendmsg to " + name);
}

std::optional<DatagramSocket::Message> DatagramSocket::receive(std::chrono::milliseconds limit) {
  pollfd entry{socket_.get(), POLLIN, 0};
  if (::poll(&entry, 1, static_cast<int>(std::max<std::int64_t>(0, limit.count()))) <= 0) {
    return std::nullopt;
  }
  Message message;
  message.bytes.resize(kMaxMessage);
  iovec content{message.bytes.data(), message.bytes.size()};
  ControlBuffer control{};
  msghdr header{};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  header.msg_control = control.bytes;
  header.msg_controllen = sizeof(control.bytes);
  const ssize_t got = ::recvmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return std::nullopt;
    throw_errno("recvmsg");
  }
  bool is_ours = false;
  read_control(header, message.descriptor, is_ours);
  if (!is_ours) return std::nullopt;
  message.bytes.resize(static_cast<std::size_t>(got));
  return message;
}

}  // namespace lockstep::native
